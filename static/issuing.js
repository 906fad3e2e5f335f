// A bill's form: with another method, account, subscription or period the page is asked for anew, and what was typed stays.
const FOUND = new Set(["amount", "period_from", "period_to", "payable_until", "subscriptions"]);
const OF_PAGE = new Set(["basis", "typed", "form_key", "csrf_token"]);
const ASKS = new Set(["method", "account", "subscriptions", "period_to", "term", "payable_from", "payable_until"]);
let asking = null;
const meanwhile = new Set(); // fields changed since the answer on its way was asked for
const typing = new WeakSet(); // dates being typed: each digit is a change, 02.12.0002 among them
const waiting = new WeakSet(); // those that have changed, until they are left

document.addEventListener("keydown", (event) => {
  if (formOf(event) && event.target.type === "date" && event.key !== "Tab") typing.add(event.target);
});

document.addEventListener("input", noteTyped);

document.addEventListener("change", (event) => {
  const form = formOf(event), field = event.target;
  if (!form) return;
  noteTyped(event);
  if (!ASKS.has(field.name)) return;
  if (typing.has(field)) waiting.add(field);
  else void recalculate(form);
});

document.addEventListener("focusout", (event) => {
  typing.delete(event.target);
  const form = formOf(event);
  if (form && waiting.delete(event.target)) void recalculate(form);
});

// What is saved is what is on the screen: no answer changes it any more.
document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-issue] form")) return;
  event.target.elements.typed.value = [...meanwhile].join(" ");
  asking?.abort();
});

function formOf(event) {
  return event.target.closest?.("[data-issue] form") ?? null;
}

function noteTyped(event) {
  const form = formOf(event);
  if (!form) return;
  if (event.target.name === "payable_until") form.elements.term.value = "";
  if (asking) meanwhile.add(event.target.name);
}

async function recalculate(form) {
  asking?.abort();
  const own = asking = new AbortController();
  form.elements.typed.value = [...meanwhile].join(" ");
  const sent = new FormData(form);
  sent.set("recalculate", "1");
  const box = form.closest("[data-issue]");
  box.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(location.href, { method: "POST", body: sent, signal: own.signal });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (own.signal.aborted) return;
    const fresh = page.querySelector("[data-issue]");
    if (!fresh) throw new Error("no form");
    keepTyped(form, fresh.querySelector("form"));
    show(box, fresh);
    asking = null;
    meanwhile.clear();
  } catch (error) {
    if (error.name === "AbortError") return;
    asking = null;
    box.removeAttribute("aria-busy");
    // The button does the same without us; who types is left alone.
    if (!form.contains(document.activeElement)) form.querySelector("[data-recalculate]").focus();
  }
}

// What a person has changed while the answer was on its way is not what was sent, and stays; not what is nobody's to change.
function keepTyped(old, fresh) {
  for (const field of fresh.elements) {
    if (!field.name || field.tagName === "BUTTON" || OF_PAGE.has(field.name)) continue;
    if (FOUND.has(field.name) && (!meanwhile.has(field.name) || field.readOnly)) continue;
    const typed = counterpart(field, old);
    if (!typed) continue;
    if (field.type === "checkbox") field.checked = typed.checked;
    else field.value = typed.value;
  }
}

function counterpart(field, root) {
  const named = field.name ? [...root.querySelectorAll(`[name="${CSS.escape(field.name)}"]`)] : [];
  return named.find((one) => one.type !== "checkbox" || one.value === field.value)
    ?? (field.id && !field.name ? root.querySelector(`#${CSS.escape(field.id)}`) : null);
}

// The new page in place of the old one, around the field that has the focus: that one is never replaced.
function show(box, fresh) {
  const held = box.contains(document.activeElement) ? document.activeElement : null;
  const twin = held && counterpart(held, fresh);
  if (twin) return put(box, fresh, held, twin);
  box.replaceWith(fresh);
  if (held) fresh.querySelector("select, input:not([type=hidden])").focus();
}

function put(old, fresh, held, twin) {
  for (const name of ["class", "aria-busy", "aria-invalid", "aria-describedby", "readonly", "disabled"]) {
    if (fresh.hasAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
    else old.removeAttribute(name);
  }
  if (old === held) {
    if (held.type === "checkbox") held.checked = twin.checked;
    else if (held.tagName === "INPUT" && (held.type !== "date" || held.readOnly) && held.value !== twin.value) held.value = twin.value;
    return;
  }
  const kept = [...old.children].find((one) => one.contains(held));
  const place = [...fresh.children].find((one) => one.contains(twin));
  const nodes = [...fresh.childNodes], at = nodes.indexOf(place);
  for (const node of [...old.childNodes]) if (node !== kept) node.remove();
  kept.before(...nodes.slice(0, at));
  kept.after(...nodes.slice(at + 1));
  put(kept, place, held, twin);
}
