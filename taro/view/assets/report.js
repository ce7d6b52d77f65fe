// The gallery of a report: one page of samples at a time.
(() => {
  "use strict";
  const {el, drawTimeline, drawText, readTimes} = window.taro;
  const data = JSON.parse(document.getElementById("data").textContent);
  const [gallery, controls, count] = ["gallery", "controls", "count"].map((id) => document.getElementById(id));
  const ORDERS = {
    differ: "differ most", gained: "second is better", lost: "first was better", worst: "worst first", best: "best first",
    random: "at random", file: "as in the file",
  };
  const last = data.names.length - 1;
  const state = {order: Object.keys(data.orders)[0], failure: "", task: "", words: "", page: 0};

  function select(name, key, options) {
    const node = el("select", {onchange: (event) => change(key, event.target.value)},
      ...options.map(([value, text]) => el("option", {value}, text)));
    return el("label", {}, name, node);
  }

  function failureOptions() {
    const kinds = {};
    data.rows.forEach((row) => new Set(row.runs.map((run) => run.f).filter(Boolean)).forEach((kind) => { kinds[kind] = (kinds[kind] || 0) + 1; }));
    return [["", "all"], ["answered", last ? "with an answer in both" : "with an answer"],
      ...Object.keys(data.failures).filter((kind) => kinds[kind]).map((kind) => [kind, `${kind} (${kinds[kind]}${last ? " samples, in either run" : ""})`])];
  }

  controls.append(
    select("order", "order", Object.keys(data.orders).map((order) => [order, ORDERS[order]])),
    select("failure", "failure", failureOptions()),
    ...(data.tasks.length > 1 ? [select("task", "task", [["", "all"], ...data.tasks.map((task) => [task, task])])] : []),
    el("label", {}, "query, id or answer has", el("input", {type: "search", oninput: (event) => change("words", event.target.value.toLowerCase())})));
  controls.addEventListener("submit", (event) => event.preventDefault());

  function change(key, value) {
    state[key] = value;
    state.page = 0;
    show();
  }

  function matches(row) {
    if (state.failure === "answered" ? row.runs.some((run) => !run.a && !run.s) : state.failure && row.runs.every((run) => run.f !== state.failure)) return false;
    if (state.task && row.k !== state.task) return false;
    if (!state.words) return true;
    return [row.id, row.q, ...row.runs.map((run) => run.c || "")].some((text) => text.toLowerCase().includes(state.words));
  }

  function card(row) {
    const label = (k) => (last ? data.names[k] : "answer");
    const timeline = {
      duration: row.d, truths: row.t,
      tracks: row.runs.map((run, k) => ({
        label: label(k), span: run.a, spans: run.s, score: run.i, note: run.a || run.s ? `IoU ${run.i.toFixed(2)}` : "", times: readTimes(run.c, run.n)})),
    };
    const strip = data.strips[row.id];
    const drawing = drawTimeline(timeline, strip === undefined ? null : data.pictures[strip]);
    const change = last ? `, change ${row.runs[last].i >= row.runs[0].i ? "+" : "−"}${Math.abs(row.runs[last].i - row.runs[0].i).toFixed(2)}` : "";
    const node = el("article", {class: "card"},
      el("header", {}, el("h3", {}, row.q), el("span", {class: "faint"}, `${row.id}${change}${row.known ? "" : ", length of the video unknown"}`)),
      drawing);
    row.runs.forEach((run, k) => {
      if (run.f) node.append(el("p", {class: "faint"}, `${last ? `${label(k)}: ` : ""}${run.f}: ${run.r || data.failures[run.f] || ""}`));
      if (run.c === null) return;
      const details = el("details", {}, el("summary", {}, last ? `what ${label(k)} says` : "what the model says"));
      details.addEventListener("toggle", () => {
        if (details.children.length === 1) details.append(drawText(run.c, readTimes(run.c, run.n)));
      });
      details.addEventListener("taro-seek", (event) => drawing.showTime(event.detail.seconds));
      node.append(details);
    });
    return node;
  }

  function show() {
    const found = data.orders[state.order].filter((place) => matches(data.rows[place]));
    const pages = Math.max(1, Math.ceil(found.length / data.page));
    const start = state.page * data.page;
    const shown = found.slice(start, start + data.page);
    gallery.replaceChildren(...shown.map((place) => card(data.rows[place])));
    count.textContent = found.length ? `${start + 1} to ${start + shown.length} of ${found.length} samples` : "no sample is like that";
    for (const node of document.querySelectorAll("[data-pages]")) {
      const go = (step, text) => el("button", {
        type: "button", disabled: state.page + step < 0 || state.page + step >= pages,
        onclick: () => { state.page += step; show(); document.getElementById("samples").scrollIntoView(); }}, text);
      node.replaceChildren(go(-1, "← previous"), el("span", {}, `page ${state.page + 1} of ${pages}`), go(1, "next →"));
    }
  }

  show();
})();
