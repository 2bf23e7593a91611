{# SPDX-License-Identifier: GPL-2.0-only #}
"use strict";
(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const bar = document.getElementById("filter");
  const input = bar.querySelector("input");
  const buttons = [...bar.querySelectorAll("button")];
  const said = document.getElementById("filtered");
  const rows = all("#index tbody tr");
  let outcome = "";

  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set();
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = (!outcome || row.dataset.outcome === outcome) && words.every((word) => text.includes(word));
      row.hidden = !fits;
      if (fits) shown.add(row.dataset.test);
    }
    for (const item of all("[data-of]")) item.hidden = !shown.has(item.dataset.of);
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.value === outcome));
    said.textContent = shown.size === rows.length ? "" : `${shown.size} of ${rows.length} tests shown`;
  };

  const goThere = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const test = target && target.closest("details.test");
    if (!test) return;
    if (test.hidden) {
      outcome = input.value = "";
      apply();
    }
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView({ block: target === test ? "start" : "center" });
  };

  const showComplaint = (test) => {
    for (const box of test.querySelectorAll(".console")) {
      const mark = box.querySelector("mark.fatal") || box.querySelector("mark");
      if (!mark || box.scrollTop) continue;
      const above = mark.getBoundingClientRect().top - box.getBoundingClientRect().top;
      box.scrollTop = above - box.clientHeight / 3;
    }
  };

  bar.hidden = false;
  for (const button of buttons) {
    button.addEventListener("click", () => {
      outcome = button.value;
      apply();
    });
  }
  bar.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("input", apply);
  window.addEventListener("hashchange", goThere);
  for (const test of all("details.test")) {
    showComplaint(test);
    test.addEventListener("toggle", () => showComplaint(test));
  }
  goThere();
})();
