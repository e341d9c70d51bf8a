// Interactive parts of the pages. All pages except the live feed also work without it.
"use strict";

document.documentElement.classList.add("scripted");

const FRAGMENT = { "x-fragment": "yes" };
let csrfToken = document.querySelector('meta[name="csrf-token"]').content;

function find(selector, root = document) {
  return root.querySelector(selector);
}

// HTML from the console's server, which has escaped all values.
function elementsOf(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

function shown(note) {
  return elementsOf('<p class="box declined" role="alert"><span></span></p>').firstElementChild.firstElementChild
    .appendChild(document.createTextNode(note)).parentElement.parentElement;
}

// The menu of narrow screens.
const menuButton = find(".menu-button");
menuButton.addEventListener("click", () => {
  const open = find(".side-body").classList.toggle("open");
  menuButton.setAttribute("aria-expanded", String(open));
});

// Copying a command.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const code = find("code", button.closest(".snippet"));
  const before = button.innerHTML;
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    // Without permission to write to the clipboard, select the command instead.
    window.getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.innerHTML = before; }, 1500);
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) window.print();
});

// Forms that are sent once: the second click of a double click does nothing. The request id in the
// form makes a repeat safe; this only avoids it.
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    for (const button of form.querySelectorAll("button")) button.setAttribute("aria-busy", "true");
  });
}
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-once]")) {
    delete form.dataset.sent;
    for (const button of form.querySelectorAll("button")) button.removeAttribute("aria-busy");
  }
});

// The simulator: updates the answer while the user types.
const simulator = find("form[data-simulator]");
if (simulator) {
  const answer = find("#answer");
  let timer = 0;
  let pending = null;
  let requested = new URLSearchParams(new FormData(simulator)).toString();

  async function update() {
    const query = new URLSearchParams(new FormData(simulator)).toString();
    if (query === requested) return;
    requested = query;
    pending?.abort();
    pending = new AbortController();
    try {
      const response = await fetch(`${simulator.dataset.simulator}?${query}`, { headers: FRAGMENT, signal: pending.signal });
      answer.replaceChildren(elementsOf(await response.text()));
      history.replaceState(null, "", `${location.pathname}?${query}`);
    } catch (error) {
      if (error.name === "AbortError") return;
      requested = "";
      answer.replaceChildren(shown("The console does not respond. Check that it is running."));
    }
  }

  simulator.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(update, 250);
  });
  simulator.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    update();
  });
  answer.addEventListener("click", (event) => {
    const button = event.target.closest("[data-fill]");
    if (!button) return;
    const field = simulator.elements[button.dataset.fill];
    field.value = button.dataset.value;
    field.focus();
    update();
  });
}

// The dashboard: the feed, and a refresh of the figures after events.
const feed = find("[data-feed]");
if (feed) {
  const MOST = 60;
  const state = find("[data-feed-state]");
  const note = find("[data-feed-note]");
  const overview = find("[data-refresh]");
  const source = new EventSource(feed.dataset.feed);
  let refreshTimer = 0;
  let refreshing = false;
  let refreshed = performance.now();
  let settled = false;
  let firstLine = true;

  function say(word, kind, text) {
    state.textContent = word;
    state.className = `live ${kind}`;
    note.textContent = text;
    note.hidden = !text;
  }

  async function refresh() {
    refreshTimer = 0;
    if (document.hidden || overview.contains(document.activeElement)) return;
    if (refreshing) {
      refreshTimer = setTimeout(refresh, 600);
      return;
    }
    refreshing = true;
    try {
      const response = await fetch(overview.dataset.refresh, { headers: FRAGMENT });
      if (response.ok) overview.replaceChildren(elementsOf(await response.text()));
    } catch {
      // The next turn tries again.
    } finally {
      refreshing = false;
      refreshed = performance.now();
    }
  }

  // Refresh while a panel shows an error, and regularly for the health, independent of the feed.
  setInterval(() => {
    const bad = find("[data-healthy=no]", overview);
    const isDue = performance.now() - refreshed > (bad ? 4_000 : 30_000);
    if (isDue && !refreshTimer) refresh();
  }, 2_000);

  source.addEventListener("open", () => {
    say("live", "on", feed.children.length ? "" : "Waiting for events.");
    settled = false;
    firstLine = true;
  });
  source.addEventListener("line", (event) => {
    say("live", "on", "");
    if (firstLine) {
      firstLine = false;
      setTimeout(() => { settled = true; }, 700);
    }
    const line = elementsOf(event.data).firstElementChild;
    if (find(`[data-event="${line.dataset.event}"]`, feed)) return;
    // Events from before the page was opened appear without animation.
    if (settled) line.classList.add("new");
    feed.prepend(line);
    while (feed.children.length > MOST) feed.lastElementChild.remove();
    if (!refreshTimer) refreshTimer = setTimeout(refresh, 600);
  });
  source.addEventListener("trouble", (event) => say("interrupted", "off", event.data));
  source.addEventListener("recovered", () => {
    say("live", "on", feed.children.length ? "" : "Waiting for events.");
    refresh();
  });
  for (const end of ["refused", "login"]) {
    source.addEventListener(end, (event) => {
      source.close();
      say("off", "off", event.data);
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) say("connecting", "", "The console does not respond. Retrying.");
  });
  document.addEventListener("visibilitychange", refresh);
  window.addEventListener("pagehide", () => source.close());
}

// Polls an ingestion until it ends. `onEnd` receives its state and number of rows. `expected` is the
// number of rows from a dry run of the file, used until the service knows it.
function follow(place, address, onEnd, expected = 0) {
  const POLL_MILLISECONDS = 500;
  const samples = [];
  let said = "";

  function pace(progress) {
    if (progress.dataset.ended === "yes") return;
    const rows = Number(progress.dataset.rows);
    const total = Number(progress.dataset.total) || expected;
    if (total && !progress.dataset.total) {
      const bar = find("progress", progress);
      bar.max = total;
      bar.value = Math.min(rows, total);
    }
    samples.push([performance.now(), rows]);
    if (samples.length > 12) samples.shift();
    const [began, before] = samples[0];
    const seconds = (performance.now() - began) / 1000;
    if (seconds >= 0.4 && rows > before) {
      const rate = (rows - before) / seconds;
      said = `${new Intl.NumberFormat("en-IN").format(Math.round(rate))} ${progress.dataset.unit || "rows"} a second`;
      if (total > rows) said += `, about ${Math.max(1, Math.round((total - rows) / rate))} s left`;
    }
    find("[data-rate]", progress).textContent = said;
  }

  async function poll() {
    let progress = null;
    try {
      const response = await fetch(address, { headers: FRAGMENT });
      place.replaceChildren(elementsOf(await response.text()));
      progress = find(".progress", place);
    } catch {
      place.replaceChildren(shown("The console does not respond. Retrying."));
      setTimeout(poll, 4 * POLL_MILLISECONDS);
      return;
    }
    if (!progress) return;
    pace(progress);
    if (progress.dataset.ended === "yes") onEnd(progress.dataset.state, Number(progress.dataset.rows));
    else setTimeout(poll, POLL_MILLISECONDS);
  }
  poll();
}

const running = find("[data-progress]");
if (running) follow(running, running.dataset.progress, () => location.reload());

// Uploading: a dry run first, then for real with the same file.
const upload = find("form[data-upload]");
if (upload) {
  const drop = find("[data-drop]", upload);
  const file = find('input[type="file"]', upload);
  const real = find("[data-real]", upload);
  const dry = find("button.primary", upload);
  const hint = find("[data-upload-hint]", upload);
  const problem = find("[data-upload-problem]");
  const status = find("[data-upload-status]");
  const place = find("[data-upload-progress]");

  function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  }

  function dryRunFirst() {
    real.disabled = true;
    dry.classList.add("primary");
    real.classList.remove("primary");
    hint.textContent = "A dry run reports what a real run would do and stores nothing.";
  }

  let triedRows = 0;

  function ended(state, rows, wasDry) {
    const good = state === "SUCCEEDED";
    status.textContent = good ? (wasDry ? "The dry run has finished." : "The file is loaded.") : `The ingestion ended with state ${state}.`;
    dry.disabled = false;
    if (good && wasDry) {
      triedRows = rows;
      real.disabled = false;
      real.classList.add("primary");
      dry.classList.remove("primary");
      hint.textContent = "The dry run has finished. Load for real to store the rows.";
    } else {
      dryRunFirst();
      if (good) hint.textContent = "The file is loaded.";
    }
    relist();
  }

  async function relist() {
    const page = await fetch(location.href).then((response) => response.text(), () => "");
    const list = find("#ingestions", elementsOf(page));
    if (list) find("#ingestions").replaceWith(list);
  }

  dryRunFirst();
  upload.addEventListener("change", dryRunFirst);
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    file.files = event.dataTransfer.files;
    dryRunFirst();
  });

  // One id per intent: kept if the response was lost and the user sends again.
  let intent = { key: "", id: "" };
  upload.addEventListener("change", () => { intent = { key: "", id: "" }; });

  async function post(data, retry = true) {
    const response = await fetch(upload.action, { method: "POST", body: data, headers: { accept: "application/json", ...FRAGMENT } });
    if (!response.headers.get("content-type")?.startsWith("application/json")) {
      return { problems: [response.status === 413 ? "The file is larger than the service accepts." : "The file was rejected. Reload this page."] };
    }
    const answer = await response.json();
    if (answer.csrf_token && retry) {
      // The user signed in again in another tab: the page continues in the new session.
      csrfToken = answer.csrf_token;
      for (const field of document.querySelectorAll('input[name="csrf_token"]')) field.value = csrfToken;
      data.set("csrf_token", csrfToken);
      return post(data, false);
    }
    return answer;
  }

  function complain(answer) {
    problem.textContent = answer.problems.join(" ");
    if (answer.sign_in) {
      const link = document.createElement("a");
      link.href = answer.sign_in;
      link.target = "_blank";
      link.rel = "noopener";
      link.textContent = "Sign in in a new tab";
      problem.append(" ", link, ". The file stays selected here.");
    }
    dry.disabled = false;
  }

  async function send(kind, wasDry, isFurther) {
    const data = new FormData(upload);
    if (kind) data.set("kind", kind);
    const key = `${data.get("kind")} ${wasDry} ${isFurther}`;
    if (intent.key !== key) intent = { key, id: newId() };
    data.set("ingestion_id", intent.id);
    data.set("validate_only", wasDry ? "yes" : "no");
    let answer;
    try {
      answer = await post(data);
    } catch {
      answer = { problems: ["The console does not respond. Check that it is running."] };
    }
    if (!answer.path) {
      complain(answer);
      return;
    }
    intent = { key: "", id: "" };
    const part = document.createElement("div");
    place.append(part);
    follow(part, `${answer.path}/progress`, (state, rows) => {
      const [next] = isFurther ? [] : answer.rest || [];
      if (!next || state !== "SUCCEEDED") {
        ended(state, rows, wasDry);
        return;
      }
      status.textContent = `Sending the sheet of ${next}.`;
      if (wasDry) problem.textContent = "The dry run stores no customers. So it rejects loans of customers who are new in this file. A real run loads the customers first.";
      send(next, wasDry, true);
    }, wasDry ? 0 : triedRows);
  }

  upload.addEventListener("submit", (event) => {
    event.preventDefault();
    const wasDry = event.submitter !== real;
    problem.textContent = "";
    dry.disabled = real.disabled = true;
    status.textContent = "Sending the file.";
    place.replaceChildren();
    send("", wasDry, false);
  });
}

// The checklist: one item, a flow, or all of them, one after the other.
async function runCheck(form) {
  const item = form.closest(".check");
  const button = find("button", form);
  button.setAttribute("aria-busy", "true");
  let line;
  let reason = "";
  try {
    const body = new URLSearchParams({ csrf_token: csrfToken, confirmed: "yes" });
    const response = await fetch(form.action, { method: "POST", body, headers: FRAGMENT });
    const answer = elementsOf(await response.text());
    line = response.ok ? find(".check", answer) : null;
    reason = find(".box-title", answer)?.textContent.trim();
  } catch {
    line = null;
  }
  if (!line) {
    button.removeAttribute("aria-busy");
    throw new Error(reason || "The console does not respond. Reload this page.");
  }
  const hadFocus = item.contains(document.activeElement);
  item.replaceWith(line);
  if (hadFocus) find("button", line).focus();
}

function summarize() {
  const items = [...document.querySelectorAll(".check")];
  const passed = items.filter((item) => item.dataset.result === "pass").length;
  const failed = items.filter((item) => item.dataset.result === "fail").length;
  const skipped = items.filter((item) => item.dataset.result === "skip").length;
  find("[data-summary]").textContent = `${passed} of ${items.length} passed${failed ? `, ${failed} failed` : ""}${skipped ? `, ${skipped} skipped` : ""}`;
}

// Nothing is written before the user ticks the box.
function isConfirmed() {
  const box = find("[data-confirm]");
  if (!box) return true;
  if (!box.checked) {
    find("[data-summary]").textContent = "Tick the box above first: the checks write to the service.";
    box.focus();
  }
  return box.checked;
}

async function runAll(root, trigger) {
  if (trigger.disabled || !isConfirmed()) return;
  trigger.disabled = true;
  try {
    for (const form of [...root.querySelectorAll("form[data-check]")]) {
      await runCheck(form);
      summarize();
    }
  } catch (error) {
    find("[data-summary]").textContent = error.message;
  } finally {
    trigger.disabled = false;
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-check]");
  if (!form) return;
  event.preventDefault();
  if (!isConfirmed()) return;
  runCheck(form).then(summarize, (error) => { find("[data-summary]").textContent = error.message; });
});
find("[data-run-all]")?.addEventListener("click", (event) => runAll(document, event.currentTarget));
for (const button of document.querySelectorAll("[data-run-flow]")) {
  button.addEventListener("click", () => runAll(button.closest(".card"), button));
}
