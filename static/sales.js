// The sum of a recalculation, clicked, is what was received; the sum to give back follows the cost of lessons used.
const cents = (text) => {
  const plain = text.replace(/[\s₽]/g, "").replace("−", "-").replace(",", ".");
  return /^-?\d+(\.\d{0,2})?$/.test(plain) ? Math.round(Number(plain) * 100) : null;
};
const typed = (value) => new Intl.NumberFormat(document.documentElement.lang, { minimumFractionDigits: 2, maximumFractionDigits: 2, useGrouping: false }).format(value / 100);

for (const button of document.querySelectorAll("[data-fill]")) {
  const from = document.getElementById(button.dataset.from);
  const into = document.getElementById(button.dataset.fill);
  const shown = button.querySelector("[data-shows]");
  const money = new Intl.NumberFormat(document.documentElement.lang, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  from.addEventListener("input", () => {
    const sum = cents(from.value);
    shown.textContent = sum === null ? "—" : money.format(sum / 100);
  });
  button.addEventListener("click", (event) => {
    const sum = cents(from.value);
    if (sum === null) return;
    event.preventDefault();
    into.value = sum > 0 ? typed(sum) : "";
    into.focus();
  });
}

for (const button of document.querySelectorAll("[data-paid]")) {
  const used = document.getElementById("used_value");
  const amount = document.getElementById("amount");
  const paid = Math.round(Number(button.dataset.paid) * 100);
  button.hidden = true;
  used.addEventListener("input", () => {
    const value = cents(used.value);
    if (value !== null) amount.value = typed(Math.max(0, paid - value));
  });
}
