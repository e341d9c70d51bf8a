// The calls made from the forms of methods, kept in this tab until it is closed or the user changes.
"use strict";

const CALLS_KEY = "credit-console-calls";
const MAX_CALLS = 50;
const MAX_REQUEST = 20000;

function isCall(call) {
  return call && ["id", "service", "method", "request", "status", "time"].every((name) => typeof call[name] === "string")
    && /^[A-Za-z]+$/.test(call.service) && /^[A-Za-z]+$/.test(call.method) && call.request.length <= MAX_REQUEST;
}

// The kept calls of this user, latest first.
function keptCalls() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(CALLS_KEY)) || {};
    if (kept.subject === document.body.dataset.subject && Array.isArray(kept.calls)) return kept.calls.filter(isCall).slice(0, MAX_CALLS);
    sessionStorage.removeItem(CALLS_KEY);
  } catch {
    // Unreadable, or no storage: no calls.
  }
  return [];
}

function keepCalls(calls) {
  try {
    sessionStorage.setItem(CALLS_KEY, JSON.stringify({ subject: document.body.dataset.subject, calls }));
  } catch {
    // Without storage there is no history.
  }
}

function keepAnswer(answer) {
  const call = { ...answer.dataset, time: new Date().toISOString() };
  if (!isCall(call)) return;
  keepCalls([call, ...keptCalls().filter((each) => each.id !== call.id)].slice(0, MAX_CALLS));
}

// A form that fills in the form of the method. It sends nothing to the service.
function againForm(call) {
  const form = document.createElement("form");
  form.method = "post";
  form.action = `/qa/methods/${call.service}/${call.method}`;
  const fields = { csrf_token: document.querySelector('meta[name="csrf-token"]').content, mode: "json", json: call.request };
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement("input");
    Object.assign(input, { type: "hidden", name, value });
    form.append(input);
  }
  const button = document.createElement("button");
  Object.assign(button, { className: "quiet small", name: "act", value: "again", textContent: "Again" });
  button.setAttribute("aria-label", `Fill in ${call.method} again`);
  form.append(button);
  return form;
}

function showCalls(place) {
  const wanted = place.dataset.history;
  const calls = keptCalls().filter((call) => !wanted || call.method === wanted);
  place.hidden = calls.length === 0;
  place.querySelector("ul").replaceChildren(...calls.map((call) => {
    const item = document.createElement("li");
    const text = document.createElement("span");
    const request = document.createElement("code");
    request.textContent = call.request.length > 160 ? `${call.request.slice(0, 160)}…` : call.request;
    text.append(`${new Date(call.time).toLocaleTimeString()} ${call.method} ${call.status} `, request);
    item.append(text, againForm(call));
    return item;
  }));
}

const answer = document.querySelector("#answer[data-request]");
if (answer) keepAnswer(answer);
else keptCalls();
for (const place of document.querySelectorAll("[data-history]")) {
  showCalls(place);
  place.querySelector("[data-forget]").addEventListener("click", () => {
    keepCalls([]);
    showCalls(place);
    document.querySelector("main").focus();
  });
}
