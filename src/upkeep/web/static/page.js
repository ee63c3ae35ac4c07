// Keeps an open page true: theme, live parts, ages, and the map of machines.
// Runs in <head> so that the remembered theme is there before the first paint.
"use strict";

const LOOK_WORDS = {
  x: "unhealthy", u: "not reached", b: "going back", k: "in work", s: "starting",
  a: "watched", h: "well, waits", d: "being deleted", o: "stopped", w: "well",
};
const FETCH_EVERY_MS = 500; // At most twice a second, however much changes.
const SILENT_MAX_MS = 40000; // The server pings every 15 s; two in a row are missing.
const RETRY_MS = 3000;
const THEMES = ["system", "light", "dark"];

// ---- theme: the system's, or the one that was chosen here

function rememberedTheme() {
  try {
    const theme = localStorage.getItem("upkeep.theme");
    return THEMES.includes(theme) ? theme : "system";
  } catch {
    return "system"; // Storage is forbidden: the page works all the same.
  }
}

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  if (button) button.textContent = `theme: ${theme}`;
}

showTheme(rememberedTheme());

function startTheme() {
  const button = document.getElementById("theme");
  button.hidden = false;
  showTheme(rememberedTheme());
  button.addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(rememberedTheme()) + 1) % THEMES.length];
    try { localStorage.setItem("upkeep.theme", theme); } catch { /* Not remembered, then. */ }
    showTheme(theme);
  });
}

// ---- ages: "12:03:10" becomes "12:03:10 (3 min ago)"

function age(seconds) {
  const past = Math.abs(seconds);
  let text = `${Math.floor(past / 86400)} d`;
  if (past < 60) text = `${Math.floor(past)} s`;
  else if (past < 3600) text = `${Math.floor(past / 60)} min`;
  else if (past < 172800) text = `${Math.floor(past / 3600)} h`;
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

let serverAheadMs = 0; // The server's clock minus ours, so that ages are by its time.

function showAges() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = Date.parse(time.dateTime);
    time.dataset.age = age((Date.now() + serverAheadMs - at) / 1000);
  }
}

function learnServerTime(response) {
  const date = Date.parse(response.headers.get("date"));
  if (!Number.isNaN(date)) serverAheadMs = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
}

// ---- live parts

function startLive(main) {
  const changed = new Set();
  let everything = false, busy = false, timer = 0, lastFetch = 0;
  let source = null, heardAt = Date.now(), lostAt = null;

  const clockText = (ms) => new Date(ms + serverAheadMs).toISOString().slice(11, 19);

  function say(state, text) {
    const live = document.getElementById("live");
    if (live.dataset.state !== state || state === "lost") live.querySelector(".say").textContent = text;
    live.dataset.state = state;
  }

  function isLive() {
    lostAt = null;
    say("live", "live, times are UTC");
  }

  function isLost() {
    lostAt ??= heardAt;
    say("lost", `not live since ${clockText(lostAt)}, retrying`);
  }

  function want(groups) {
    if (groups.length === 0) everything = true;
    for (const group of groups) changed.add(group);
    if (!timer && !busy) timer = setTimeout(refresh, Math.max(0, lastFetch + FETCH_EVERY_MS - Date.now()));
  }

  async function refresh() {
    timer = 0;
    const groups = [...changed], all = everything;
    changed.clear();
    everything = false;
    if (main.dataset.group && !all && !groups.includes(main.dataset.group)) return;
    busy = true;
    lastFetch = Date.now();
    try {
      const url = new URL(main.dataset.refresh, location.href);
      if (main.dataset.page === "overview" && !all) for (const group of groups) url.searchParams.append("group", group);
      const response = await fetch(url);
      if (response.status === 401) return location.assign("/login?back=" + encodeURIComponent(location.pathname));
      learnServerTime(response);
      if (response.ok && !take(main, await response.text(), all)) everything = true;
    } catch {
      everything = true; // The line is down; the reconnection asks for all of it.
    } finally {
      busy = false;
      if (changed.size || everything) want(everything ? [] : [...changed]);
    }
  }

  function connect() {
    if (source) source.close();
    source = new EventSource("/live");
    const heard = () => { heardAt = Date.now(); isLive(); };
    source.addEventListener("hello", () => { heard(); want([]); });
    source.addEventListener("ping", heard);
    source.addEventListener("changed", (event) => { heard(); want(event.data.split(" ").filter(Boolean)); });
    source.addEventListener("error", () => {
      isLost();
      source.close(); // An answer such as 503 ends an EventSource for good; so we retry ourselves.
      setTimeout(connect, RETRY_MS);
    });
  }

  setInterval(() => {
    if (source.readyState !== EventSource.CLOSED && Date.now() - heardAt > SILENT_MAX_MS) {
      isLost();
      heardAt = Date.now();
      connect();
    }
  }, 5000);
  connect();
}

function take(main, html, all) {
  // Replaces the parts whose digest is another; false if groups have come or gone and only some
  // were asked for.
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const groups = main.querySelector("#groups"), freshGroups = fresh.querySelector("#groups");
  if (groups && freshGroups && groups.dataset.roster !== freshGroups.dataset.roster) {
    if (!all) return false;
    groups.replaceWith(freshGroups);
  }
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = main.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
    if (old && old.dataset.hash !== part.dataset.hash) swap(old, part);
  }
  startMaps(main);
  showHead(main);
  showAges();
  return true;
}

function swap(old, part) {
  // Keeps focus and the maps' cursors, and marks the cards that look otherwise than before.
  const looks = new Map([...old.querySelectorAll("[data-card]")].map((c) => [c.dataset.card, c.dataset.look]));
  for (const card of part.querySelectorAll("[data-card]")) {
    if (looks.has(card.dataset.card) && looks.get(card.dataset.card) !== card.dataset.look) card.classList.add("changed");
  }
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const href = focused?.getAttribute("href"), maps = [...old.querySelectorAll(".map")];
  const mapAt = maps.indexOf(focused), cursors = maps.map((map) => map.dataset.at);
  old.replaceWith(document.adoptNode(part));
  part.querySelectorAll(".map").forEach((map, n) => { if (cursors[n]) map.dataset.at = cursors[n]; });
  if (mapAt >= 0) part.querySelectorAll(".map")[mapAt]?.focus();
  else if (href) part.querySelector(`a[href="${CSS.escape(href)}"]`)?.focus();
}

function showHead(main) {
  const line = main.querySelector(".headline[data-title]");
  if (!line) return;
  const severity = line.dataset.severity;
  const mark = severity === "down" || severity === "halted" ? "down" : severity === "work" ? "work" : "well";
  document.title = `${line.dataset.title} · upkeep`;
  const icon = document.getElementById("favicon");
  icon.href = icon.getAttribute("href").replace(/mark-\w+\.svg.*/, `mark-${mark}.svg`);
}

// ---- maps: one picture of very many machines, with a cursor for pointer and keyboard

function startMaps(root) {
  for (const map of root.querySelectorAll(".map:not([data-on])")) {
    map.dataset.on = "";
    const names = map.dataset.names.split(" "), columns = Number(map.dataset.columns);
    const cursor = map.querySelector(".cursor");
    const readout = map.closest("[data-part]").querySelector(".readout");
    const go = (at) => {
      if (at < 0 || at >= names.length) return;
      map.dataset.at = at;
      cursor.setAttribute("x", (at % columns) * 10);
      cursor.setAttribute("y", Math.floor(at / columns) * 10);
      readout.textContent = `${names[at]}: ${LOOK_WORDS[map.dataset.looks[at]]}`;
    };
    const open = () => location.assign("/machines/" + encodeURIComponent(names[Number(map.dataset.at ?? 0)]));
    const under = (event) => {
      const box = map.getBoundingClientRect(), size = box.width / columns;
      const column = Math.floor((event.clientX - box.left) / size);
      return column < columns ? Math.floor((event.clientY - box.top) / size) * columns + column : -1;
    };
    map.addEventListener("pointermove", (event) => go(under(event)));
    map.addEventListener("click", (event) => { const at = under(event); if (at >= 0 && at < names.length) { go(at); open(); } });
    map.addEventListener("focus", () => go(Number(map.dataset.at ?? 0)));
    map.addEventListener("keydown", (event) => {
      const at = Number(map.dataset.at ?? 0);
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0, End: names.length - 1 }[event.key];
      if (event.key === "Enter") open();
      else if (to === undefined) return;
      else go(to);
      event.preventDefault();
    });
    if (map.dataset.at && document.activeElement === map) go(Number(map.dataset.at));
  }
}

// ---- start

async function startSignIn() {
  // A link from another site comes without our cookie.  Asked from here, the server knows whether
  // we are signed in, and sends us on.
  if (document.querySelector(".refusal")) return;
  const response = await fetch(location.href).catch(() => null);
  if (response?.redirected && !new URL(response.url).pathname.startsWith("/login")) location.replace(response.url);
}

document.addEventListener("DOMContentLoaded", () => {
  const main = document.getElementById("main");
  startTheme();
  if (main.dataset.page === "sign-in") startSignIn();
  if (!main.dataset.refresh) return;
  startMaps(main);
  showHead(main);
  showAges();
  setInterval(showAges, 10000);
  startLive(main);
});
