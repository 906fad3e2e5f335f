// Marks of a lesson: all at once, and by keys. The page works without.
const form = document.querySelector("[data-marks]");

form?.addEventListener("click", (event) => {
  if (!event.target.closest("[data-all-came]")) return;
  event.preventDefault();
  for (const expected of form.querySelectorAll("input[value=planned]:checked")) choose(expected.closest("fieldset"), 0);
});

form?.addEventListener("keydown", (event) => {
  const fieldset = event.target.closest("fieldset");
  if (!fieldset || !/^[1-4]$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  choose(fieldset, Number(event.key) - 1);
  let next = fieldset.nextElementSibling;
  while (next && next.tagName !== "FIELDSET") next = next.nextElementSibling;
  (next ?? form.querySelector(".marks-buttons")).querySelector("input:checked, button").focus();
});

function choose(fieldset, number) {
  fieldset.querySelectorAll("input[type=radio]")[number].checked = true;
}
