// Comforts of a grid: ticks, a cursor over the cells, editing in place, panels, several sorts, widths. The page works
// without them. Delegated listeners; a cell is known by its row and the column's head.
const table = document.querySelector("[data-table]");
const heads = table ? [...table.tHead.rows[0].cells] : [];
const rows = () => (table ? [...table.tBodies[0].rows] : []);
const say = document.createElement("p");
say.className = "visually-hidden";
say.setAttribute("role", "status");
document.body.append(say);

// --- ticks ---
let lastTick = null;

function showTicked() {
  const note = document.querySelector("[data-ticked]");
  const count = document.querySelectorAll("[data-tick]:checked").length;
  if (note) note.textContent = count ? `${note.dataset.text} ${count}` : "";
}

document.addEventListener("change", (event) => {
  const box = event.target;
  if (box.matches("[data-tick-page]")) {
    for (const tick of document.querySelectorAll("[data-tick]")) tick.checked = box.checked;
  }
  if (box.matches("[data-tick], [data-tick-page]")) showTicked();
});

table?.addEventListener("click", (event) => { // with Shift: all between this tick and the one before
  const box = event.target.closest("[data-tick]");
  if (!box) return;
  const all = [...document.querySelectorAll("[data-tick]")];
  if (event.shiftKey && lastTick) {
    const [from, to] = [all.indexOf(lastTick), all.indexOf(box)].sort((a, b) => a - b);
    for (const tick of all.slice(from, to + 1)) tick.checked = box.checked;
    showTicked();
  }
  lastTick = box;
});
addEventListener("pageshow", showTicked);

// --- the cursor ---
let cell = null;

function moveTo(target) {
  if (!target) return;
  if (cell && cell !== target) { cell.removeAttribute("tabindex"); cell.parentElement.classList.remove("current"); cell.classList.remove("here"); }
  cell = target;
  cell.tabIndex = 0;
  cell.classList.add("here");
  cell.parentElement.classList.add("current");
  cell.focus({ preventScroll: true });
  cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  showPencil(cell);
}

function beside(rowStep, columnStep) {
  const all = rows();
  const first = heads.findIndex((head) => head.dataset.col);
  if (!cell) return all[0]?.cells[first];
  const row = all[Math.max(0, Math.min(all.length - 1, all.indexOf(cell.parentElement) + rowStep))];
  return row.cells[Math.max(first, Math.min(heads.length - 1, cell.cellIndex + columnStep))];
}

function nextEditable(from, step) {
  for (let at = from.cellIndex + step; at >= 0 && at < heads.length; at += step) {
    if (isEditable(from.parentElement.cells[at])) return from.parentElement.cells[at];
  }
  const row = rows()[rows().indexOf(from.parentElement) + step];
  if (!row) return null;
  const cells = [...row.cells];
  return (step > 0 ? cells : cells.reverse()).find(isEditable) ?? null;
}

const isEditable = (td) => Boolean(td && heads[td.cellIndex]?.hasAttribute("data-edit"));

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input:not([type=checkbox]), textarea, select, .cell-form, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") { document.getElementById("keys")?.showModal(); return; }
  if (!table) return;
  const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
  const inside = cell && cell.contains(event.target);
  if (steps[event.key] && (inside || event.key === "ArrowDown" || event.key === "ArrowUp")) {
    if (event.target.closest("details[open], .filters, .side")) return;
    event.preventDefault();
    moveTo(beside(...steps[event.key]));
  } else if (!cell) {
    return;
  } else if (event.key === "x" || event.code === "KeyX") {
    const tick = cell.parentElement.querySelector("[data-tick]");
    if (tick) { tick.checked = !tick.checked; showTicked(); }
  } else if (event.key === "F2" || event.key === "e" || event.code === "KeyE") {
    if (isEditable(cell)) { event.preventDefault(); edit(cell); }
  } else if (event.key === "Enter" && event.target === cell) {
    event.preventDefault();
    if (isEditable(cell) && cell.tagName !== "TH") edit(cell);
    else (cell.querySelector("a") ?? cell.parentElement.querySelector("[data-open]"))?.click();
  } else if (event.key === "Home" || event.key === "End") {
    event.preventDefault();
    moveTo(beside(0, event.key === "End" ? heads.length : -heads.length));
  }
});

// --- editing in place ---
const pencil = document.createElement("button");
pencil.type = "button";
pencil.className = "pencil";
pencil.tabIndex = -1;
pencil.innerHTML = '<i class="bi bi-pencil" aria-hidden="true"></i>';
let editing = null; // {td, form, before, initial}

function showPencil(td) {
  if (!isEditable(td) || editing?.td === td || td.contains(pencil)) return;
  pencil.setAttribute("aria-label", heads[td.cellIndex].textContent.trim());
  td.append(pencil);
}

table?.addEventListener("mouseover", (event) => showPencil(event.target.closest("tbody td, tbody th")));
table?.addEventListener("click", (event) => {
  if (event.target.closest(".pencil")) { event.preventDefault(); edit(event.target.closest("td, th")); return; }
  const td = event.target.closest("tbody td, tbody th");
  if (td && !td.classList.contains("tick") && !event.target.closest("a, button, input, select, textarea, label, .cell-form")) moveTo(td);
});
table?.addEventListener("dblclick", (event) => {
  const td = event.target.closest("tbody td, tbody th");
  if (isEditable(td) && !event.target.closest("a, .cell-form")) { event.preventDefault(); edit(td); }
});

const written = (form) => new URLSearchParams(new FormData(form)).toString();

async function edit(td) {
  if (editing?.td === td) return;
  if (editing && !(await save(null))) return;
  const head = heads[td.cellIndex];
  const place = new URLSearchParams({ id: td.parentElement.dataset.row, column: head.dataset.col });
  const answer = await fetch(`${table.dataset.cell}?${place}`, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) { tell(td, head.textContent.trim() + ": " + answer.status); return; }
  pencil.remove();
  moveTo(td);
  const before = [...td.childNodes].filter((node) => node !== pencil);
  const box = document.createElement("div");
  box.innerHTML = await answer.text();
  const form = box.querySelector("form");
  td.replaceChildren(form);
  td.classList.add("editing");
  editing = { td, form, before, initial: written(form) };
  const control = form.querySelector("input:not([type=hidden]), select, textarea");
  control?.focus();
  control?.select?.();
  form.addEventListener("submit", (event) => { event.preventDefault(); save("down"); });
  form.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape") { event.preventDefault(); leave(); }
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !event.target.closest("button")) { event.preventDefault(); save("down"); }
    else if (event.key === "Tab" && !event.target.closest("button") && !form.querySelector("fieldset")) { event.preventDefault(); save(event.shiftKey ? "left" : "right"); }
  });
  form.querySelector("[data-cell-cancel]").addEventListener("click", leave);
}

function leave() {
  if (!editing) return;
  const { td, before } = editing;
  editing = null;
  td.classList.remove("editing");
  td.replaceChildren(...before);
  moveTo(td);
}

// Saves the open cell and goes on (down, left, right; null: stays). True when nothing is left open.
async function save(then) {
  const { td, form, initial } = editing;
  if (form.dataset.sent) return false;
  if (written(form) === initial && !form.dataset.stale) { leave(); goOn(td, then); return true; }
  const data = new FormData(form);
  data.set("column", heads[td.cellIndex].dataset.col);
  if (table.dataset.in) data.set("in", table.dataset.in);
  form.dataset.sent = "1";
  form.classList.add("sending");
  let answer, told;
  try {
    answer = await fetch(form.action, { method: "POST", body: data, headers: { Accept: "application/json" } });
    told = await answer.json();
  } catch { // no network, or signed out: what was typed stays
    told = { error: answer ? String(answer.status) : "…" };
  }
  delete form.dataset.sent;
  form.classList.remove("sending");
  if (answer?.ok && told.cells) {
    leave();
    show(td.parentElement, told.cells, null);
    say.textContent = told.said;
    td.classList.add("saved");
    setTimeout(() => td.classList.remove("saved"), 1200);
    goOn(td, then);
    return true;
  }
  if (told.cells) show(td.parentElement, told.cells, td);
  if (told.version != null && form.elements.version) { form.elements.version.value = told.version; form.dataset.stale = "1"; }
  form.querySelector(".cell-error").textContent = told.error ?? told.message ?? String(answer?.status ?? "");
  const control = form.querySelector("input:not([type=hidden]), select, textarea");
  control?.setAttribute("aria-invalid", "true");
  control?.focus();
  return false;
}

function goOn(td, then) {
  const target = then === "down" ? beside(1, 0) : then === "right" ? nextEditable(td, 1) : then === "left" ? nextEditable(td, -1) : null;
  if (target) moveTo(target);
  if (target && then !== "down") edit(target);
}

function show(row, cells, except) {
  heads.forEach((head, at) => {
    const html = cells[head.dataset.col];
    const td = row.cells[at];
    if (html === undefined) return;
    if (td === except) { // the cell is open: what it goes back to is the value of now
      const box = document.createElement("div");
      box.innerHTML = html;
      const link = editing.before.find((node) => node.matches?.("[data-open]"));
      if (link) link.replaceChildren(...box.childNodes);
      else editing.before = [...box.childNodes];
      return;
    }
    (td.querySelector(":scope > [data-open]") ?? td).innerHTML = html;
  });
}

function tell(td, text) {
  say.textContent = text;
  td.title = text;
}

addEventListener("beforeunload", (event) => {
  if (editing && written(editing.form) !== editing.initial) event.preventDefault();
});

// --- several sorts: Shift and a click adds a column, or turns it ---
table?.tHead.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || !event.shiftKey) return;
  event.preventDefault();
  const name = link.closest("th").dataset.col;
  const here = new URLSearchParams(location.search);
  const order = (table.dataset.order ?? "").split(",").filter(Boolean);
  const at = order.findIndex((part) => part.replace(/^-/, "") === name);
  if (at < 0) order.push(name);
  else if (order[at].startsWith("-")) order.splice(at, 1);
  else order[at] = `-${name}`;
  const next = new URLSearchParams(link.search);
  for (const gone of ["page", "after", "before", "count"]) here.delete(gone);
  next.set("sort", order.join(",") || name);
  location.search = next;
});

// --- widths: drag the edge of a head, or Alt and the arrows on it ---
const REM = parseFloat(getComputedStyle(document.documentElement).fontSize);
for (const head of heads) {
  if (!head.dataset.col) continue;
  const grip = document.createElement("span");
  grip.className = "grip";
  head.append(grip);
  grip.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    const from = head.getBoundingClientRect().width - event.clientX;
    const resize = (move) => setWidth(head, Math.max(3, (from + move.clientX) / REM));
    grip.setPointerCapture(event.pointerId);
    grip.addEventListener("pointermove", resize);
    grip.addEventListener("pointerup", () => { grip.removeEventListener("pointermove", resize); keepWidth(head); }, { once: true });
  });
}

table?.tHead.addEventListener("keydown", (event) => {
  const head = event.target.closest("th[data-col]");
  if (!head || !event.altKey || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  event.preventDefault();
  setWidth(head, Math.max(4, Math.min(40, head.getBoundingClientRect().width / REM + (event.key === "ArrowRight" ? 2 : -2))));
  keepWidth(head);
});

function setWidth(head, rem) {
  for (const row of table.rows) {
    const td = row.cells[head.cellIndex];
    if (!td) continue;
    td.className = td.className.replace(/\bw\d+\b/, "");
    td.style.width = td.style.minWidth = td.style.maxWidth = `${rem}rem`;
  }
  pinAll();
}

let timer = 0;
function keepWidth(head) {
  clearTimeout(timer);
  const rem = Math.round(head.getBoundingClientRect().width / REM);
  timer = setTimeout(() => post(table.dataset.layout, { do: `width:${head.dataset.col}`, width: rem, in: table.dataset.in ?? "" }), 300);
}

function post(url, fields) {
  const body = new URLSearchParams({ ...fields, csrf_token: document.querySelector("[name=csrf_token]").value });
  return fetch(url, { method: "POST", body, headers: { "X-Panel": "1" } });
}

// --- pinned columns stand one beside the other ---
function pinAll() {
  if (!table) return;
  const narrow = matchMedia("(max-width: 575px)").matches;
  let left = 0;
  heads.forEach((head, at) => {
    if (!head.hasAttribute("data-pin") || (narrow && left)) return;
    for (const row of table.rows) {
      const td = row.cells[at];
      if (!td) continue;
      td.classList.add("pinned");
      td.style.left = `${left}px`;
    }
    left += head.getBoundingClientRect().width;
  });
}
if (heads.filter((head) => head.hasAttribute("data-pin")).length > 1) { pinAll(); addEventListener("resize", pinAll); }

// --- the exact count, in place ---
document.addEventListener("click", async (event) => {
  const link = event.target.closest("[data-ask-count]");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  for (const each of document.querySelectorAll("[data-ask-count]")) each.classList.add("sending");
  const page = new DOMParser().parseFromString(await (await fetch(link.href)).text(), "text/html");
  for (const part of ["[data-count]", "tfoot", ".pager-count", ".bulk-all"]) {
    const [old, fresh] = [document.querySelector(part), page.querySelector(part)];
    if (old && fresh) old.replaceWith(fresh);
  }
  say.textContent = document.querySelector("[data-count]")?.textContent ?? "";
});

// --- panels: columns, views, filters, beside the grid ---
let panel = null;
document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-panel]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    link.closest("details")?.removeAttribute("open");
    await fill(link.href);
  } else if (panel && (event.target === panel || event.target.closest("[data-panel-close]"))) {
    event.preventDefault();
    panel.close();
  }
});

async function fill(url, options = {}) {
  const answer = await fetch(url, { ...options, headers: { "X-Panel": "1" } });
  if (answer.redirected || (!answer.ok && answer.status !== 422)) { location = answer.redirected ? answer.url : url; return; }
  if (!panel) {
    panel = document.createElement("dialog");
    panel.className = "panel-dialog";
    document.body.append(panel);
  }
  const had = document.activeElement?.name;
  panel.innerHTML = await answer.text();
  panel.setAttribute("aria-label", panel.querySelector("h1").textContent);
  if (!panel.open) panel.showModal();
  const again = had && panel.querySelector(`[name="${CSS.escape(had)}"]`);
  (again || panel.querySelector("[autofocus], .builder-row:last-of-type input:not([type=hidden]), .columns-form [name=column], select"))?.focus();
}

document.addEventListener("change", (event) => { // another column or operator: another control
  const form = event.target.closest("[data-builder]");
  if (form && panel?.contains(form) && event.target.matches("[data-renew]")) void renew("renew");
});
document.addEventListener("submit", (event) => {
  const form = event.target;
  const verb = event.submitter?.value ?? "";
  if (panel?.contains(form) && form.matches("[data-builder]") && verb !== "apply") { event.preventDefault(); void renew(verb); }
  if (panel?.contains(form) && form.matches("[data-columns]") && /^(up|down):/.test(verb)) { event.preventDefault(); shift(event.submitter); }
});

// One after the other: each sends what the one before has brought, and what was typed meanwhile.
let renewing = Promise.resolve();
function renew(verb) {
  renewing = renewing.then(async () => {
    const form = panel.querySelector("[data-builder]");
    if (!form) return;
    const query = new URLSearchParams(new FormData(form));
    query.set("do", verb);
    const sent = new Map([...form.elements].map((control) => [control, stateOf(control)]));
    await fill(`${form.action}?${query}`);
    if (verb === "renew") keepTyped(sent); // lines keep their numbers
  }).catch(() => {}); // no network: the button does the same
  return renewing;
}

const stateOf = (control) => (control.type === "checkbox" ? control.checked : control.value);
const namesakes = (control) => [...control.form.elements].filter((one) => one.name === control.name);

function keepTyped(sent) {
  const fresh = panel.querySelector("[data-builder]");
  for (const [control, state] of sent) {
    if (!fresh || !control.name || stateOf(control) === state) continue;
    const alike = [...fresh.elements].filter((one) => one.name === control.name);
    const twin = control.type === "checkbox"
      ? alike.find((one) => one.value === control.value)
      : alike[namesakes(control).indexOf(control)];
    if (!twin) continue;
    if (twin.type === "checkbox") twin.checked = control.checked;
    else if (!twin.options || [...twin.options].some((option) => option.value === control.value)) twin.value = control.value;
  }
}

// Before the form is sent the order is only the order of its lines.
function shift(button) {
  const line = button.closest("li");
  const is_up = button.value.startsWith("up:");
  const other = is_up ? line.previousElementSibling : line.nextElementSibling;
  if (!other) return;
  if (is_up) other.before(line); else other.after(line);
  button.focus();
}
