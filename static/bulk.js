// Bulk edit: who fills in a field means to change it.
document.addEventListener("input", (event) => {
  const field = event.target.closest("[data-bulk-field]");
  const tick = field?.querySelector("[name='set.change']");
  if (tick && event.target !== tick) tick.checked = true;
});
