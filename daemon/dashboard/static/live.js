// Keeps the page as it is now: the server sends what happens, and parts of the page are fetched
// again. Rule: nothing is made here of what a stranger wrote but text; a flood of events is one
// request in two seconds for each part; a page that is not live says so, and since when.
"use strict";
(() => {
  const GAP_MS = 2000;
  const MINUTE_MS = 60000;
  const LONGEST_MS = 15000;
  const ANY = [
    "task.moved", "task.unconfirmed", "gate.closed", "gate.opened", "callback.quarantined",
    "credits.low", "deadline.near", "download.failed", "finish.failed", "store.failed",
    "store.recovered", "notify.failed", "admin.acted", "config.reloaded", "events.dropped",
    "daemon.stopping",
  ];
  const SHELF = ["stored", "done", "pruned"];
  const progress = new Map();
  const parts = new Map();
  let source = null;
  let pause = 1000;
  let lostSince = null;
  let reason = "";

  const isOpen = () => source !== null && source.readyState === EventSource.OPEN;
  const find = (id) => document.getElementById(id);

  function size(bytes) {
    if (bytes < 1024) return `${bytes} ${bytes === 1 ? "Byte" : "Bytes"}`;
    let value = bytes;
    let unit = "";
    for (unit of ["KiB", "MiB", "GiB", "TiB"]) {
      value /= 1024;
      if (value < 1024) break;
    }
    return `${value.toFixed(1)} ${unit}`;
  }

  function left(seconds) {
    if (seconds < 60) return `${Math.ceil(seconds)} s left`;
    if (seconds < 3600) return `${Math.ceil(seconds / 60)} min left`;
    return `${Math.ceil(seconds / 3600)} h left`;
  }

  function draw(told) {
    const row = find(`task-${told.task_id}`);
    const bar = row && row.querySelector("progress");
    const words = row && row.querySelector("[data-told]");
    if (!bar || !words) return false;
    const speed = told.bytes_per_second ? ` · ${size(Math.round(told.bytes_per_second))}/s` : "";
    if (told.size_bytes) {
      bar.max = told.size_bytes;
      bar.value = told.received_bytes;
      const part = Math.floor((100 * told.received_bytes) / told.size_bytes);
      const rest = told.size_bytes - told.received_bytes;
      const time = speed && rest > 0 ? ` · ${left(rest / told.bytes_per_second)}` : "";
      words.textContent =
        `${size(told.received_bytes)} of ${size(told.size_bytes)} · ${part} %${speed}${time}`;
    } else {
      bar.removeAttribute("value");
      words.textContent = `${size(told.received_bytes)}${speed}`;
    }
    return true;
  }

  // At once when it was quiet, else when the gap is over; never two at a time.
  function refresh(part) {
    let state = parts.get(part.id);
    if (!state) parts.set(part.id, (state = { timer: null, last: 0, asking: false, again: false }));
    // What happens while the answer is on its way may not be in it.
    if (state.asking) state.again = true;
    if (state.timer !== null || document.hidden) return;
    const wait = Math.max(100, state.last + GAP_MS - Date.now());
    state.timer = setTimeout(async () => {
      state.last = Date.now();
      state.asking = true;
      try {
        await htmx.ajax("GET", part.dataset.part, { source: part, target: part, swap: "innerMorph" });
      } finally {
        state.last = Date.now();
        state.timer = null;
        state.asking = false;
        if (state.again) {
          state.again = false;
          refresh(part);
        }
        if (lostSince !== null && isOpen()) setTimeout(() => refresh(part), 2 * GAP_MS);
      }
    }, wait);
  }

  function refreshAll() {
    document.querySelectorAll("[data-part]").forEach(refresh);
  }

  function hear(name, told) {
    document.querySelectorAll("[data-part]").forEach((part) => {
      const on = part.dataset.on;
      const mine = on === "task" && told.task_id === part.dataset.task;
      const shelf = on === "stored" && name === "task.moved" && SHELF.includes(told.to);
      if (on === "any" || mine || shelf || name === "events.dropped") refresh(part);
    });
  }

  function show() {
    const lost = find("lost");
    const live = find("live");
    live.hidden = false;
    live.classList.toggle("off", lostSince !== null);
    find("live-told").textContent = lostSince === null ? "Live" : "Not live";
    const told = lostSince === null ? "" :
      `Not live since ${lostSince.toLocaleTimeString()}: ${reason} What you see is how it stood ` +
      "then. The connection is tried again by itself.";
    if (lost.textContent !== told) lost.textContent = told;
  }

  function lose(why) {
    if (lostSince === null) {
      lostSince = new Date();
      reason = why;
    }
    show();
  }

  function connect() {
    source = new EventSource(document.body.dataset.events);
    const mine = source;
    source.onopen = () => {
      pause = 1000;
      const again = lostSince !== null;
      lostSince = null;
      show();
      // What happened before is told to nobody, so the page is fetched anew.
      if (again || parts.size === 0) refreshAll();
    };
    source.onerror = () => {
      mine.close();
      lose("the daemon does not answer.");
      setTimeout(connect, pause);
      pause = Math.min(LONGEST_MS, pause * 1.5);
    };
    source.addEventListener("download.progress", (event) => {
      const told = JSON.parse(event.data);
      progress.set(told.task_id, told);
      if (!draw(told)) hear("download.progress", told);
    });
    ANY.forEach((name) => source.addEventListener(name, (event) => {
      const told = JSON.parse(event.data);
      if (name === "task.moved") progress.delete(told.task_id);
      if (name === "daemon.stopping") {
        lose("the daemon is stopping.");
        return;
      }
      hear(name, told);
    }));
  }

  document.addEventListener("htmx:after:swap", () => {
    if (lostSince !== null && isOpen()) {
      lostSince = null;
      show();
    }
    progress.forEach(draw);
    // A button that was pressed may be gone: who uses the keyboard goes on at what came of it.
    const notice = find("notice");
    // Another part may be fetched again before the answer is here, so it is not forgotten before.
    if (document.activeElement === document.body && notice.dataset.wanted) {
      delete notice.dataset.wanted;
      notice.focus();
    }
  });
  for (const moved of ["keydown", "pointerdown"]) {
    document.addEventListener(moved, () => { delete find("notice").dataset.wanted; });
  }
  document.addEventListener("submit", () => { find("notice").dataset.wanted = "yes"; });
  document.addEventListener("htmx:error", () => lose("the daemon does not answer."));
  document.addEventListener("htmx:response:error", () => lose("the daemon cannot say how it stands."));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refreshAll(); });
  // "in 3 days" is not true for ever.
  setInterval(refreshAll, MINUTE_MS);
  document.addEventListener("DOMContentLoaded", connect);
})();
