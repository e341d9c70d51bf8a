// Views of lists: filters under a name, kept in this browser. Without it the address still works as
// a bookmark.
"use strict";

const VIEWS_KEY = "credit-console-views";
const MAX_VIEWS = 20;
const MAX_NAME = 40;
const MAX_QUERY = 600;

// The stored views of one list: only texts of a bounded length, whatever else is stored.
function storedViews(path) {
  let all = {};
  try {
    all = JSON.parse(localStorage.getItem(VIEWS_KEY)) || {};
  } catch {
    // Unreadable, or no storage: no views.
  }
  const found = Array.isArray(all[path]) ? all[path] : [];
  return found.filter((view) => view && typeof view.name === "string" && typeof view.query === "string"
    && view.name.length <= MAX_NAME && view.query.length <= MAX_QUERY).slice(0, MAX_VIEWS);
}

function storeViews(path, views) {
  let all = {};
  try {
    all = JSON.parse(localStorage.getItem(VIEWS_KEY)) || {};
  } catch {
    all = {};
  }
  all[path] = views;
  localStorage.setItem(VIEWS_KEY, JSON.stringify(all));
}

// A query with the filters of the list and nothing else.
function filtersIn(query, names) {
  const kept = new URLSearchParams();
  for (const [name, value] of new URLSearchParams(query)) if (names.includes(name) && value) kept.append(name, value);
  return kept.toString();
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function showViews(place) {
  const path = place.dataset.views;
  const names = place.dataset.filters.split(" ");
  const here = filtersIn(location.search, names);
  const views = storedViews(path);
  const list = element("ul", "", { "aria-label": "Saved views" });
  for (const view of views) {
    const item = element("li", "");
    const query = filtersIn(view.query, names);
    // The path is the list's own, so a stored view leads to no other page.
    const link = element("a", view.name, { href: `${path}?${query}` });
    if (query === here) link.setAttribute("aria-current", "true");
    const remove = element("button", "Delete", { type: "button", class: "quiet small", "aria-label": `Delete the view ${view.name}` });
    remove.addEventListener("click", () => {
      storeViews(path, storedViews(path).filter((each) => each.name !== view.name));
      showViews(place);
      place.querySelector("summary").focus();
    });
    item.append(link, remove);
    list.append(item);
  }
  const form = element("form", "", { class: "inline" });
  const field = element("div", "", { class: "field" });
  const input = element("input", "", { id: "view-name", maxlength: String(MAX_NAME), autocomplete: "off", required: "" });
  field.append(element("label", "Name, kept in this browser only", { for: "view-name" }), input);
  form.append(field, element("button", "Save", { class: "quiet" }));
  const details = element("details", "");
  details.append(element("summary", "Save these filters as a view"), form);
  const status = element("p", "", { role: "status", class: "small muted" });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = input.value.trim();
    const others = storedViews(path).filter((each) => each.name !== name);
    if (!name || here.length > MAX_QUERY) return;
    if (others.length >= MAX_VIEWS) {
      status.textContent = `At most ${MAX_VIEWS} views of a list: delete one first.`;
      return;
    }
    try {
      storeViews(path, [...others, { name, query: here }]);
    } catch {
      status.textContent = "This browser does not allow the console to store views. Bookmark the page instead.";
      return;
    }
    showViews(place);
    place.querySelector("[role=status]").textContent = `Saved as “${name}”.`;
    place.querySelector("summary").focus();
  });
  place.replaceChildren(...(views.length ? [list] : []), details, status);
  place.hidden = false;
}

for (const place of document.querySelectorAll("[data-views]")) showViews(place);
