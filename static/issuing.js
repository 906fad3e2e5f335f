// A bill's form: with another method, account, subscription or period the page is asked for anew, and what was typed stays.
const FOUND = new Set(["amount", "period_from", "period_to", "payable_until", "basis", "form_key", "csrf_token", "subscriptions"]);
const ASKS = new Set(["method", "account", "subscriptions", "period_to", "term", "payable_from"]);
let asking = null;

document.addEventListener("change", (event) => {
  const form = event.target.closest("[data-issue] form");
  if (!form) return;
  if (event.target.name === "payable_until") form.elements.term.value = "";
  if (ASKS.has(event.target.name)) void recalculate(form, event.target);
});

async function recalculate(form, changed) {
  asking?.abort();
  asking = new AbortController();
  const sent = new FormData(form);
  sent.set("recalculate", "1");
  const box = form.closest("[data-issue]");
  box.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(location.href, { method: "POST", body: sent, signal: asking.signal });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("[data-issue]");
    if (!fresh) throw new Error("no form");
    keepTyped(form, fresh.querySelector("form"));
    const focused = document.activeElement;
    const [name, value] = [focused?.name ?? changed.name, focused?.value];
    box.replaceWith(fresh);
    const again = [...fresh.querySelectorAll(`[name="${CSS.escape(name)}"]`)];
    (again.find((field) => field.type !== "checkbox" || field.value === value) ?? again[0])?.focus();
  } catch (error) {
    if (error.name === "AbortError") return;
    box.removeAttribute("aria-busy");
    form.querySelector("[data-recalculate]").focus(); // the button does the same without us
  }
}

// What was typed while the answer was on its way is not what was sent.
function keepTyped(old, fresh) {
  for (const field of fresh.elements) {
    if (!field.name || FOUND.has(field.name)) continue;
    const typed = [...old.elements].find((one) => one.name === field.name && (one.type !== "checkbox" || one.value === field.value));
    if (!typed) continue;
    if (field.type === "checkbox") field.checked = typed.checked;
    else if (field.tagName !== "BUTTON") field.value = typed.value;
  }
}
