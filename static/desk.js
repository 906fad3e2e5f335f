// The balance after an operation, while its sum is typed. The server says it once more when it is done.
const facts = document.querySelector("[data-balance]");
const sum = document.getElementById("amount");
if (facts && sum) {
  const output = facts.querySelector("output");
  const show = new Intl.NumberFormat(document.documentElement.lang, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const cents = (text) => {
    const plain = text.replace(/[\s₽]/g, "").replace(",", ".");
    return /^\d+(\.\d{0,2})?$/.test(plain) ? Math.round(Number(plain) * 100) : null;
  };
  const before = Math.round(Number(facts.dataset.balance) * 100);
  const update = () => {
    const typed = cents(sum.value);
    const after = before + Number(facts.dataset.sign) * (typed ?? 0);
    output.textContent = typed === null ? "—" : show.format(after / 100);
    output.classList.toggle("debt", typed !== null && after < 0);
    output.classList.toggle("prepaid", typed !== null && after > 0);
  };
  for (const part of facts.querySelectorAll("[hidden]")) part.hidden = false;
  sum.addEventListener("input", update);
  update();
}
