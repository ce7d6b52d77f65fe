// The groups of a run, one page of them at a time: by step, or all of one prompt in the order of training.
(() => {
  "use strict";
  const {el, drawTimeline, drawText, readTimes} = window.taro;
  const data = JSON.parse(document.getElementById("data").textContent);
  const [gallery, controls, count] = ["gallery", "controls", "count"].map((id) => document.getElementById(id));
  const spread = (group) => group.rows[0].t - group.rows[group.rows.length - 1].t;
  const steps = [...new Set(data.groups.map((group) => group.s))];
  const state = {step: "", prompt: "", order: "step", words: "", page: 0};
  const ORDERS = {step: "by step", reward: "largest reward", low: "smallest reward", spread: "largest spread", same: "no spread"};

  function select(name, key, options) {
    const node = el("select", {onchange: (event) => change(key, event.target.value)},
      ...options.map(([value, text]) => el("option", {value}, text)));
    return el("label", {}, name, node);
  }

  controls.append(
    select("step", "step", [["", "all"], ...steps.map((step) => [String(step), `step ${step}`])]),
    select("prompt", "prompt", [["", "all"], ...data.prompts.map((one, k) => [String(k), `${one.times}× ${one.q.slice(0, 60)} (${one.id})`])]),
    select("order", "order", Object.entries(ORDERS)),
    el("label", {}, "query, id or completion has", el("input", {type: "search", oninput: (event) => change("words", event.target.value.toLowerCase())})));
  controls.addEventListener("submit", (event) => event.preventDefault());

  function change(key, value) {
    state[key] = value;
    state.page = 0;
    show();
  }

  function chosen() {
    const found = data.groups.filter((group) => {
      const prompt = data.prompts[group.p];
      if (state.step && String(group.s) !== state.step) return false;
      if (state.prompt && String(group.p) !== state.prompt) return false;
      if (state.order === "same" && spread(group) !== 0) return false;
      return !state.words || [prompt.id, prompt.q, ...group.rows.map((row) => row.c)].some((text) => text.toLowerCase().includes(state.words));
    });
    const best = (group) => group.rows[0].t;
    const orders = {reward: (a, b) => best(b) - best(a), low: (a, b) => best(a) - best(b), spread: (a, b) => spread(b) - spread(a)};
    return orders[state.order] ? found.sort(orders[state.order]) : found;
  }

  // The best completion of the same prompt the last time before.
  function earlier(group) {
    const before = data.groups.filter((one) => one.p === group.p && one.s < group.s);
    return before.length ? before[before.length - 1] : null;
  }

  // Words of `now`, those that are not in the longest common part with `then` marked.
  function drawChanges(then, now) {
    const [a, b] = [then, now].map((text) => text.split(/(\s+)/));
    const common = Array.from({length: a.length + 1}, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
      }
    }
    const root = el("div", {class: "taro-text"});
    let i = 0;
    b.forEach((word, j) => {
      while (i < a.length && a[i] !== word && common[i + 1][j] >= common[i][j + 1]) i++;
      if (i < a.length && a[i] === word) { i++; root.append(word); } else root.append(word.trim() ? el("ins", {}, word) : word);
    });
    return root;
  }

  function table(group) {
    const number = (value) => (value === null ? "–" : value.toFixed(2));
    const signed = (value) => `${value === 0 ? "" : value > 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
    const gaps = group.rows.some((row) => row.g !== null);
    const names = ["completion", ...data.rewards, "reward", "advantage", "IoU", ...(gaps ? ["gap"] : []), "what it is"];
    const rows = group.rows.map((row, k) => el("tr", {},
      el("th", {scope: "row"}, `#${k + 1}`), ...row.r.map((part) => el("td", {}, number(part))), el("td", {}, row.t.toFixed(2)),
      el("td", {}, signed(row.w)), el("td", {}, row.i.toFixed(2)), gaps ? el("td", {}, number(row.g)) : null,
      el("td", {}, [row.k ? "constructed" : "", row.f ? "" : "cut"].filter(Boolean).join(", "))));
    const notes = [
      group.rows.some((row) => row.r.includes(null)) ? "–: no gap was measured" : "",
      group.rows.some((row) => row.k) ? "the advantage of a constructed completion is mapped, as model.advantages.constructed says: by default a negative one counts 0" : "",
    ].filter(Boolean).join("; ");
    return el("div", {}, notes ? el("p", {class: "faint"}, notes) : null, el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": `rewards by part, step ${group.s}, ${data.prompts[group.p].id}`},
      el("table", {}, el("thead", {}, el("tr", {}, ...names.map((name) => el("th", {scope: "col"}, name)))), el("tbody", {}, ...rows))));
  }

  function card(group) {
    const prompt = data.prompts[group.p];
    const timeline = {
      duration: prompt.d, truths: prompt.t,
      tracks: group.rows.map((row, k) => ({
        label: `#${k + 1}`, span: row.a, spans: row.s, score: data.most > 0 ? row.t / data.most : 0,
        note: `reward ${row.t.toFixed(2)}`, times: readTimes(row.c, row.n)})),
    };
    const strip = data.strips[prompt.id];
    const drawing = drawTimeline(timeline, strip === undefined ? null : data.pictures[strip]);
    const node = el("article", {class: "card"},
      el("header", {}, el("h3", {}, prompt.q), el("span", {class: "faint"}, `step ${group.s}, ${prompt.id}${spread(group) === 0 ? ", no spread: nothing to learn" : ""}`)),
      drawing);
    const before = state.prompt ? earlier(group) : null;
    if (before) {
      node.append(el("details", {open: true}, el("summary", {}, `the best reasoning, against step ${before.s}`), drawChanges(before.rows[0].c, group.rows[0].c)));
    }
    const rewards = el("details", {}, el("summary", {}, "what was rewarded, and for which part"));
    const texts = el("details", {}, el("summary", {}, `what the ${group.rows.length} completions say`));
    rewards.addEventListener("toggle", () => { if (rewards.children.length === 1) rewards.append(table(group)); });
    texts.addEventListener("toggle", () => {
      if (texts.children.length > 1) return;
      group.rows.forEach((row, k) => texts.append(
        el("p", {class: "faint"}, `#${k + 1}, reward ${row.t.toFixed(2)}${row.k ? ", constructed" : ""}${row.f ? "" : ", cut at max_tokens"}`),
        drawText(row.c, readTimes(row.c, row.n))));
    });
    texts.addEventListener("taro-seek", (event) => drawing.showTime(event.detail.seconds));
    node.append(rewards, texts);
    return node;
  }

  function show() {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / data.page));
    const start = state.page * data.page;
    const shown = found.slice(start, start + data.page);
    gallery.replaceChildren(...shown.map(card));
    count.textContent = found.length ? `${start + 1} to ${start + shown.length} of ${found.length} groups` : "no group is like that";
    for (const node of document.querySelectorAll("[data-pages]")) {
      const go = (step, text) => el("button", {
        type: "button", disabled: state.page + step < 0 || state.page + step >= pages,
        onclick: () => { state.page += step; show(); document.getElementById("groups").scrollIntoView(); }}, text);
      node.replaceChildren(go(-1, "← previous"), el("span", {}, `page ${state.page + 1} of ${pages}`), go(1, "next →"));
    }
  }

  show();
})();
