// Small comforts over pages that work without them. Delegated listeners only.
const root = document.documentElement;

document.addEventListener("click", async (event) => {
  const target = event.target;
  const copy = target.closest("[data-copy]");
  if (copy) {
    await copyText(copy.dataset.copy);
    const label = copy.querySelector("span") ?? copy;
    label.dataset.text ??= label.textContent;
    label.textContent = copy.dataset.done;
    setTimeout(() => { label.textContent = label.dataset.text; }, 2000);
  }
  if (target.closest("[data-theme-toggle]")) {
    root.dataset.bsTheme = root.dataset.bsTheme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.bsTheme);
  }
  const toggle = target.closest("[data-toggle-side]");
  if (toggle) {
    const open = document.body.classList.toggle("side-open");
    toggle.setAttribute("aria-expanded", String(open));
  } else if (!target.closest(".side")) {
    document.body.classList.remove("side-open");
  }
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(target)) menu.open = false;
  }
});

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission or no secure origin
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// A form is sent once; the server ignores a repeat as well.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-once]")) return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "1";
  form.classList.add("sending");
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("[data-sent]")) { delete form.dataset.sent; form.classList.remove("sending"); }
});

// Grid: ticks, arrows, Enter opens, x ticks, / searches.
const rows = () => [...document.querySelectorAll("[data-row]")];
let current = -1;

function showTicked() {
  const note = document.querySelector("[data-ticked]");
  if (!note) return;
  const count = document.querySelectorAll("[data-tick]:checked").length;
  note.textContent = count ? `${note.dataset.text} ${count}` : "";
}

document.addEventListener("change", (event) => {
  const box = event.target;
  if (box.matches("[data-tick-page]")) {
    for (const tick of document.querySelectorAll("[data-tick]")) tick.checked = box.checked;
  }
  if (box.matches("[data-tick], [data-tick-page]")) showTicked();
});

function moveTo(index) {
  const all = rows();
  if (!all.length) return;
  all[current]?.classList.remove("current");
  current = Math.max(0, Math.min(index, all.length - 1));
  all[current].classList.add("current");
  all[current].querySelector("[data-open]")?.focus();
  all[current].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
    document.body.classList.remove("side-open");
  }
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    const box = document.querySelector("[data-hotkey-grid]") ?? document.querySelector("[data-hotkey]");
    if (box) { event.preventDefault(); box.focus(); box.select(); }
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (rows().length) { event.preventDefault(); moveTo(current + (event.key === "ArrowDown" ? 1 : -1)); }
  } else if (event.key === "x" && rows()[current]) {
    const tick = rows()[current].querySelector("[data-tick]");
    if (tick) { tick.checked = !tick.checked; showTicked(); }
  }
});

// A page that waits for a worker looks again by itself.
const waiting = document.querySelector("[data-refresh]");
if (waiting) setTimeout(() => location.reload(), Number(waiting.dataset.refresh) * 1000);
