// scanside's page: follows the box's event stream, redraws what changed, sends acknowledgements. No other origin is ever asked.
"use strict";

const SILENCE_MS_MAX = 10000; // the box speaks every 2 s; silence means that what stands here is old
const REDRAW_PAUSE_MS = 1000;
const CALM_REDRAW_MS = 15000;

let heardAt = Date.now();
let revision = null;
let redrawnAt = Date.now();
let redrawing = false;
let redrawWanted = false;

// The name of whoever acknowledges stays in this browser.
const who = document.getElementById("who"); // not there before somebody has logged in
if (who) {
  try { who.value = localStorage.getItem("scanside-who") || ""; } catch { /* a browser without storage asks each time */ }
  who.addEventListener("change", () => {
    try { localStorage.setItem("scanside-who", who.value.trim()); } catch { /* as above */ }
  });
}

function setOffline(offline) {
  document.getElementById("offline").hidden = !offline;
  document.body.classList.toggle("offline", offline);
}

// Fetches this page again and puts in its live parts: the server alone knows how things are written.
async function redraw() {
  if (redrawing) { redrawWanted = true; return; }
  if (document.querySelector("button.ack:disabled")) { redrawWanted = true; return; }
  redrawing = true;
  redrawWanted = false;
  try {
    const response = await fetch(location.pathname, { headers: { Accept: "text/html" }, cache: "no-store" });
    const text = await response.text();
    const fresh = new DOMParser().parseFromString(text, "text/html");
    // The session has ended: what stands here is old and not to be shown any longer.
    if (fresh.querySelector(".login") && !document.querySelector(".login")) { location.assign("/"); return; }
    if (fresh.title) document.title = fresh.title;
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
      if (next && next.innerHTML !== part.dataset.source) {
        const source = next.innerHTML;
        const focused = part.contains(document.activeElement) ? document.activeElement.dataset.uid || null : null;
        keepSignal(part, next);
        part.replaceChildren(...next.childNodes);
        part.className = next.className;
        part.dataset.source = source;
        if (focused) {
          const again = part.querySelector(`button[data-uid="${CSS.escape(focused)}"]`);
          if (again) again.focus();
        }
      }
    }
    ages();
  } catch {
    redrawWanted = true;
  } finally {
    redrawing = false;
    redrawnAt = Date.now();
  }
}

// The lamp that blinks already goes on blinking in step: its node moves over instead of starting anew.
function keepSignal(part, next) {
  const old = part.querySelector("#signal");
  const fresh = next.querySelector("#signal");
  if (old && fresh && old.dataset.lamp === fresh.dataset.lamp) fresh.replaceWith(old);
}

function ageOf(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s ago`;
  if (s < 7200) return `${Math.floor(s / 60)} min ago`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} days ago`;
}

let clockSkewMs = 0; // the box's clock less this browser's

function ages() {
  for (const time of document.querySelectorAll("td time, .timeline time")) {
    const at = Date.parse(time.dateTime);
    if (Number.isNaN(at) || time.closest(".timeline")) continue;
    let age = time.nextElementSibling;
    if (!age || !age.classList.contains("age")) {
      age = document.createElement("span");
      age.className = "age";
      time.after(age);
    }
    const text = ageOf(Date.now() + clockSkewMs - at);
    if (age.textContent !== text) age.textContent = text;
  }
}

function onStatus(event) {
  const status = JSON.parse(event.data);
  heardAt = Date.now();
  clockSkewMs = status.at_ms - heardAt;
  setOffline(false);
  const signal = document.getElementById("signal");
  if (signal && signal.dataset.lamp !== status.lamp) redraw();
  else if (revision !== null && revision !== status.revision) redrawWanted = true;
  revision = status.revision;
}

function listen() {
  const stream = new EventSource("/events");
  stream.addEventListener("status", onStatus);
  // A browser gives up for good when the answer is an error (too many pages): come back by ourselves.
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) { stream.close(); setTimeout(listen, 5000); }
  });
}

async function acknowledge(button) {
  const outcome = button.parentElement.querySelector(".outcome");
  button.disabled = true;
  outcome.classList.remove("failed");
  outcome.textContent = "";
  let text = "";
  try {
    const response = await fetch(`/api/v1/studies/${encodeURIComponent(button.dataset.uid)}/acknowledge`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Scanside-Request": "1" },
      body: JSON.stringify({ by: who.value.trim() || null }),
    });
    const answer = await response.json();
    if (!response.ok && response.status !== 409) text = answer.error || "It was not recorded.";
  } catch {
    text = "The box did not answer: it was not recorded.";
  }
  button.disabled = false;
  if (text) {
    outcome.classList.add("failed");
    outcome.textContent = text;
  } else {
    redraw();
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.ack");
  if (button) acknowledge(button);
});

setInterval(() => {
  const now = Date.now();
  const silent = now - heardAt > SILENCE_MS_MAX;
  if (silent) setOffline(true);
  if (!silent && (redrawWanted || now - redrawnAt > CALM_REDRAW_MS) && now - redrawnAt > REDRAW_PAUSE_MS) redraw();
  ages();
}, 1000);

ages();
listen();
