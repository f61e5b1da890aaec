// What pages do beyond links and forms. Without this script all of them still work; they are only not live.
"use strict";

// --- Times: of whoever reads, counting on.

// As ISO 8601 has it, whatever the browser's language: the Swedish way.
const plain = new Intl.DateTimeFormat("sv-SE", {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  hour12: false, timeZoneName: "short",
});

// Ages are by the server's clock: that of a phone may be wrong.
const skew = document.body.dataset.now ? Date.now() - Date.parse(document.body.dataset.now) : 0;
const now = () => Date.now() - skew;

function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (whole >= 2 * size) return `${Math.floor(whole / size)} ${unit}`;
  }
  return `${whole} s`;
}

function tellTimes() {
  for (const element of document.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    const said = "ago" in element.dataset ? span((now() - at) / 1000)
      : "until" in element.dataset ? span((at - now()) / 1000) : plain.format(at);
    if (element.textContent !== said) element.textContent = said;
    if ("ago" in element.dataset) {
      element.title = plain.format(at);
      ageStep(element, at);
    }
  }
  for (const element of document.querySelectorAll(".there")) {
    element.hidden = isSameClock(element.dataset.zone, new Date(element.dataset.at));
  }
}

// The clock where a screen is: only where it shows another time than that of whoever reads.
const clocks = new Map();

function clockIn(zone) {
  if (!clocks.has(zone)) {
    clocks.set(zone, new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short", timeZone: zone }));
  }
  return clocks.get(zone);
}

function isSameClock(zone, at) {
  try {
    return clockIn(zone).format(at) === clockIn(undefined).format(at);
  } catch (error) {
    return false;  // this browser does not know the zone
  }
}

// A step of a command that takes long: amber, then red, by the limits that the server has written there.
function ageStep(element, at) {
  const step = element.closest("[data-amber]");
  if (!step) return;
  const age = (now() - at) / 1000;
  step.classList.toggle("is-amber", age >= Number(step.dataset.amber) && age < Number(step.dataset.red));
  step.classList.toggle("is-red", age >= Number(step.dataset.red));
}

// --- Live: one stream for all pages of this browser. Whoever holds the lock reads it, and tells the others.

const QUIET_MS = 12000;
const channel = new BroadcastChannel("infoscreen-live");
let heardAt = 0;
let isBrokerHeard = true;
let deafSince = null;

function startLive(address) {
  channel.onmessage = (event) => {
    // What another page was told while this one was on its way is read now.
    if (!heardAt) changed(null);
    onTold(event.data);
  };
  navigator.locks.request("infoscreen-live", () => new Promise(() => listen(address)));
  setInterval(tellFreshness, 1000);
  document.addEventListener("visibilitychange", tellFreshness);
}

function listen(address) {
  const stream = new EventSource(address);
  for (const kind of ["beat", "changed", "ended"]) {
    stream.addEventListener(kind, (event) => {
      const told = { kind, ...JSON.parse(event.data) };
      if (kind === "ended") stream.close();
      channel.postMessage(told);
      onTold(told);
    });
  }
  stream.addEventListener("open", () => {
    // What came in between is not told again: all that is shown is read once more.
    channel.postMessage({ kind: "opened" });
    onTold({ kind: "opened" });
  });
  stream.addEventListener("error", () => {
    // A refusal ends the stream for good: perhaps the session is over. The page itself finds out.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => listen(address), 3000);
  });
}

function onTold(told) {
  if (told.kind === "ended") return location.reload();
  if (told.kind === "opened") return changed(null);
  heardAt = Date.now();
  if (told.kind === "beat") {
    isBrokerHeard = told.broker;
    deafSince = told.since && new Date(told.since);
  } else changed(told.clients);
  tellFreshness();
}

function tellFreshness() {
  const line = document.getElementById("fresh");
  if (!line) return;
  const quiet = Date.now() - heardAt;
  // Short, so that each fits into the room of the line (console.css): when it changes, nothing below it moves.
  const [state, words] = !heardAt ? ["waiting", "connecting…"]
    : quiet > QUIET_MS ? ["old", `Not live for ${span(quiet / 1000)}. Reconnecting…`]
    : !isBrokerHeard ? ["deaf", `Broker away${deafSince ? ` since ${dayOrTime(deafSince)}` : ""}: no news`]
    : ["live", "live"];
  if (line.textContent !== words) line.textContent = words;
  line.title = state === "deaf" ? `The controller does not hear the broker${deafSince ? ` since ${plain.format(deafSince)}` : ""}.` : "";
  line.dataset.state = state;
  document.body.classList.toggle("is-old", state === "old");
}

// The time if it was today, else the date.
function dayOrTime(moment) {
  const [day, time] = plain.format(moment).split(" ");
  return plain.format(now()).startsWith(day) ? time.slice(0, 5) : day;
}

// --- What has changed is asked for at once, and then every three seconds: many pages are open, and each answer costs
// the server some 25 ms.

const ASK_EVERY_MS = 3000;
let waiting = new Set();
let isAll = false;
let isAsking = false;

function changed(clients) {
  if (clients === null) isAll = true;
  else for (const uuid of clients) waiting.add(uuid);
  ask();
}

async function ask(isNews = true) {
  if (isAsking || document.hidden || (!isAll && !waiting.size)) return;
  isAsking = true;
  const wanted = waiting;
  const all = isAll;
  waiting = new Set();
  isAll = false;
  try {
    const table = document.querySelector("table[data-rows]");
    if (table) await askRows(table, wanted, all);
    const part = document.querySelector("[data-refresh]");
    if (part && (all || wanted.has(part.dataset.refresh) || !part.dataset.refresh)) await askPart(part);
  } catch (error) {
    isAll = true;
  }
  setTimeout(() => {
    isAsking = false;
    if (!isNews || isAll || waiting.size || !document.getElementById("numbers")) return ask();
    // The server counts once a second at most: the numbers that came may lack the last news, and are asked for again.
    waiting = wanted;
    isAll = all;
    ask(false);
  }, ASK_EVERY_MS);
}

document.addEventListener("visibilitychange", () => ask());

async function fetched(address) {
  const answer = await fetch(address, { headers: { "HX-Request": "true" }, redirect: "error" });
  const elsewhere = answer.headers.get("HX-Redirect");
  if (elsewhere) location.assign(elsewhere);
  if (!answer.ok) throw new Error(`${answer.status}`);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

async function askRows(table, wanted, all) {
  const rows = [...table.tBodies[0].rows];
  const here = rows.filter((row) => all || wanted.has(row.dataset.uuid));
  const query = new URLSearchParams(location.search);
  query.delete("page");
  query.delete("wall");
  for (const row of here) query.append("uuid", row.dataset.uuid);
  const news = await fetched(`${table.dataset.rows}?${query}`);
  for (const row of here) {
    const fresh = news.querySelector(`tr[data-uuid="${row.dataset.uuid}"]`);
    if (fresh) patchRow(row, fresh);
  }
  patch(document.getElementById("numbers"), news.getElementById("numbers"));
  tellTimes();
  offerReorder(table);
}

// Cells are put in place of cells: no row moves, and what has the focus stays.
function patchRow(row, fresh) {
  row.dataset.condition = fresh.dataset.condition;
  [...fresh.cells].forEach((cell, number) => {
    if (number > 0) patch(row.cells[number], cell);
  });
}

// What is built alike is changed in place, text by text: what somebody has opened stays open.
function patch(old, fresh) {
  if (!old || !fresh || said(old) === said(fresh)) return;
  const olds = [...old.childNodes];
  const news = [...fresh.childNodes];
  if (olds.length !== news.length || olds.some((each, number) => each.nodeName !== news[number].nodeName)) {
    if (!old.contains(document.activeElement)) old.replaceChildren(...news);
    return;
  }
  olds.forEach((each, number) => {
    if (each.nodeType === Node.TEXT_NODE) each.data = news[number].data;
    if (each.nodeType !== Node.ELEMENT_NODE) return;
    patchAttributes(each, news[number]);
    patch(each, news[number]);
  });
}

function patchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

// Times count on by themselves, and the script hides some: they are no news.
function said(element) {
  const copy = element.cloneNode(true);
  for (const time of copy.querySelectorAll(".there")) time.hidden = false;
  for (const time of copy.querySelectorAll("time")) time.replaceWith(time.dateTime);
  return copy.innerHTML;
}

function offerReorder(table) {
  const button = document.querySelector("[data-reorder]");
  const begun = JSON.parse(table.dataset.begun || "{}");
  const moved = [...table.tBodies[0].rows].filter((row) => row.dataset.condition !== begun[row.dataset.uuid]).length;
  button.hidden = moved === 0;
  button.textContent = `${moved} changed, put in order`;
}

async function askPart(part) {
  const news = await fetched(location.href);
  const fresh = news.querySelector("[data-refresh]");
  for (const piece of part.querySelectorAll("[id]")) patch(piece, news.getElementById(piece.id));
  if (fresh && !part.querySelector("[id]")) patch(part, fresh);
  tellTimes();
}

// --- Selecting: what is selected is what is seen. It goes with each search, page and action, for it lies in the page.

function startSelection(form) {
  const table = form.querySelector("table");
  const boxes = () => [...form.querySelectorAll('input[name="client"]')];
  const all = form.querySelector("[data-all]");
  const tell = () => {
    const chosen = boxes().filter((box) => box.checked);
    form.querySelector("[data-chosen]").textContent =
      chosen.length ? `${chosen.length} selected.` : "Nothing is selected.";
    for (const button of form.querySelectorAll("[data-needs-choice]")) button.disabled = !chosen.length;
    for (const box of boxes()) box.closest("tr").classList.toggle("chosen", box.checked);
    if (all) all.checked = chosen.length > 0 && chosen.length === boxes().length;
  };
  form.addEventListener("change", (event) => {
    if (event.target === all) for (const box of boxes()) box.checked = all.checked;
    tell();
  });
  // A page that comes back from the browser's memory has nothing selected.
  addEventListener("pageshow", () => { for (const box of boxes()) box.checked = false; tell(); });
  form.querySelector("[data-reorder]").addEventListener("click", () => location.reload());
  const begun = {};
  for (const row of table.tBodies[0].rows) begun[row.dataset.uuid] = row.dataset.condition;
  table.dataset.begun = JSON.stringify(begun);
  tell();
}

// --- Keys: "/" searches; arrows go from row to row; space selects, as it does anyway.

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches('input:not([type="checkbox"]), textarea, select');
  if (event.ctrlKey || event.altKey || event.metaKey || isTyping) return;
  if (event.key === "/") {
    const field = document.querySelector("[data-search]");
    if (field) { event.preventDefault(); field.focus(); field.select(); }
  }
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const boxes = [...document.querySelectorAll('table.clients tbody :is(input[type="checkbox"], th a)')]
      .filter((each) => each.type === "checkbox" || !each.closest("tr").querySelector('input[type="checkbox"]'));
    if (!boxes.length) return;
    const at = boxes.findIndex((each) => each.closest("tr") === document.activeElement.closest("tr"));
    const next = at < 0 ? 0 : at + (event.key === "ArrowDown" ? 1 : -1);
    if (boxes[next]) { event.preventDefault(); boxes[next].focus(); }
  }
});

// --- A form is sent once. The server knows a second one by its id, too.

document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) return event.preventDefault();
  if (event.target.method === "post") event.target.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

// --- The typed count.

for (const field of document.querySelectorAll("[data-count]")) {
  const button = field.form.querySelector("button.main");
  const tell = () => { button.disabled = field.value.trim() !== field.dataset.count; };
  field.addEventListener("input", tell);
  tell();
}

for (const form of document.querySelectorAll("[data-selection]")) startSelection(form);
// A search brings another list: nothing in it is selected.
document.addEventListener("htmx:afterSwap", () => {
  for (const form of document.querySelectorAll("[data-selection]")) startSelection(form);
  tellTimes();
});
if (document.body.dataset.live) startLive(document.body.dataset.live);
setInterval(tellTimes, 1000);
tellTimes();
for (const note of document.querySelectorAll("[data-insecure]")) note.hidden = isSecureContext;
