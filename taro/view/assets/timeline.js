// Draws timelines and completions. All text of data goes in as text nodes, never as markup.
(() => {
  "use strict";
  if (window.taro) return;  // several timelines may stand in one notebook

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") for (const [key, part] of Object.entries(value)) node.style.setProperty(key, part);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const seconds = (value) => value.toFixed(1);
  const spanText = ([start, end]) => `${seconds(start)} to ${seconds(end)} s`;

  // Of a score in [0, 1]: from --low over --mid to --high.
  function colour(score) {
    const value = Math.min(1, Math.max(0, score));
    const [from, to, share] = value < 0.5 ? ["--low", "--mid", 2 * value] : ["--mid", "--high", 2 * value - 1];
    return `color-mix(in srgb, var(${to}) ${(100 * share).toFixed(0)}%, var(${from}))`;
  }

  // Round times from 0 on, fewer than `most`, as taro.view.timeline.ticks.
  function ticks(length, most = 7) {
    for (let power = -2; power < 7; power++) {
      for (const factor of [1, 2, 5]) {
        const step = factor * 10 ** power;
        if (length / step < most) return Array.from({length: Math.floor(length / step + 1e-9) + 1}, (_, k) => k * step);
      }
    }
    return [0];
  }

  function seek(node, time) {
    node.dispatchEvent(new CustomEvent("taro-seek", {bubbles: true, detail: {seconds: time}}));
  }

  function bar(span, length, name, className, style) {
    const share = (time) => 100 * Math.min(1, Math.max(0, time / length));
    const [first, last] = [Math.min(...span), Math.max(...span)];
    const classes = ["bar", className, span[0] > span[1] ? "backwards" : "", last > 1.001 * length ? "beyond" : ""];
    const width = share(last) - share(first);
    return el("button", {
      type: "button", class: classes.join(" "), title: name, "aria-label": `${name}; show ${seconds(first)} s`,
      style: {...style, left: `min(${share(first)}%, 100% - 4px)`, width: `${width}%`},
      onclick: (event) => seek(event.currentTarget, first),
    });
  }

  // {duration, truths, tracks: [{label, span, score, note, times}]}, and the address of a strip of frames or null. A track may
  // have several spans, or none because it says so, as its spans.
  function drawTimeline(timeline, strip = null) {
    const length = timeline.duration;
    const at = (time) => `${100 * Math.min(1, Math.max(0, time / length))}%`;
    const truth = timeline.truths.map(spanText).join(", ");
    const name = `timeline of ${seconds(length)} s${truth ? `; true: ${truth}` : ""}`;
    const root = el("div", {class: "taro-timeline", role: "group", "aria-label": name});
    const places = [];
    if (strip) {
      places.push(el("div", {class: "strip"}, el("img", {src: strip, alt: "frames of the video, evenly spaced over its length"})));
      root.append(places[0]);
    }
    const lane = (...parts) => {
      const node = el("div", {class: "lane"}, ...parts);
      places.push(node);
      return node;
    };
    if (truth) {
      root.append(
        el("span", {class: "label"}, "truth"),
        lane(...timeline.truths.map((span) => bar(span, length, `truth, ${spanText(span)}`, "truth", {}))),
        el("span", {class: "note"}, ""));
    }
    for (const track of timeline.tracks) {
      const bands = timeline.truths.map((span) => el("div", {
        class: "band", style: {left: at(Math.min(...span)), width: `calc(${at(Math.max(...span))} - ${at(Math.min(...span))})`}}));
      const spans = track.spans || (track.span ? [track.span] : []);
      const name = (span) => [...new Set([track.label, spanText(span), track.note])].join(", ");
      const node = lane(...bands, ...spans.map((span) => bar(span, length, name(span), "", {"--colour": colour(track.score)})));
      const times = [...new Set(track.times.map((time) => time[0]))].filter((time) => time <= length);
      if (times.length) node.classList.add("named");
      node.append(...times.map((time) => el("span", {class: "tick", style: {left: at(time)}})));
      if (times.length) node.title = `the reasoning names ${times.map(seconds).join(", ")} s`;
      root.append(
        el("span", {class: "label", title: track.label}, track.label), node,
        el("span", {class: "note"}, spans.length ? track.note : `${track.spans ? "does not occur" : "no answer"}; ${track.note}`.replace(/; $/, "")));
    }
    const axis = el("div", {class: "axis", "aria-hidden": "true"});
    for (const time of ticks(length)) {
      axis.append(el("span", {class: time > 0.93 * length ? "last" : "", style: {left: at(time)}}, time ? `${+time.toFixed(2)}` : "0 s"));
    }
    root.append(axis);
    root.addEventListener("taro-seek", (event) => showTime(root, places, event.detail.seconds / length));
    root.showTime = (time) => showTime(root, places, time / length);
    return root;
  }

  function showTime(root, places, share) {
    root.querySelectorAll(".cursor").forEach((node) => node.remove());
    root.style.setProperty("--at", `${100 * Math.min(1, Math.max(0, share))}%`);
    places.forEach((place) => place.append(el("div", {class: "cursor"})));
  }

  // A completion, its times as buttons, its tokens coloured by their gap; characters are counted as Python does.
  function drawText(text, times = [], gaps = []) {
    const largest = largestGap(gaps);
    const characters = Array.from(text);
    const ends = new Set([0, characters.length, ...times.flatMap((time) => time.slice(1)), ...gaps.flatMap((gap) => gap.slice(1))]);
    const cuts = [...ends].sort((a, b) => a - b);
    const part = (start, end) => characters.slice(start, end).join("");
    const root = el("div", {class: "taro-text"});
    let button = null;  // of the time that is being written: its tokens are inside
    for (let k = 0; k + 1 < cuts.length; k++) {
      const [start, end] = [cuts[k], cuts[k + 1]];
      const covers = (one) => one[1] <= start && end <= one[2];
      const time = times.find(covers);
      const gap = gaps.find(covers);
      const node = el("span", {}, part(start, end));
      if (gap && largest > 0) {
        const strength = Math.min(1, Math.abs(gap[0]) / largest);
        node.style.background = `rgba(var(${gap[0] > 0 ? "--more" : "--less"}), ${(0.4 * strength).toFixed(2)})`;
        const nats = Math.abs(gap[0]).toFixed(2);
        node.title = nats === "0.00" ? "as likely with shuffled frames" : `${gap[0] > 0 ? "less" : "more"} likely with shuffled frames: ${nats} nats`;
      }
      if (time && time[1] === start) {
        button = el("button", {
          type: "button", class: "time", "aria-label": `${part(time[1], time[2])}: show it`,
          onclick: (event) => seek(event.currentTarget, time[0])});
        root.append(button);
      }
      (time ? button : root).append(node);
    }
    return root;
  }

  // Times by where they stand in a text, [start, end, start, end, ...]: [seconds, start, end] of each.
  function readTimes(text, places) {
    const characters = places.length ? Array.from(text) : [];
    return Array.from({length: places.length / 2}, (_, k) => {
      const [start, end] = [places[2 * k], places[2 * k + 1]];
      return [Number(characters.slice(start, end).join("")), start, end];
    });
  }

  const largestGap = (gaps) => Math.max(0, ...gaps.map((gap) => Math.abs(gap[0])));

  function gapLegend(largest) {
    const swatch = (name) => el("span", {class: "swatch", style: {background: `linear-gradient(90deg, transparent, rgba(var(${name}), .4))`}});
    return el("p", {class: "taro-legend"}, "with shuffled frames a token gets less likely ", swatch("--more"),
      " or more likely ", swatch("--less"), `, at most ${largest.toFixed(2)} nats`);
  }

  // The timeline with the texts below it; a time in a text moves the cursor.
  function drawAll(timeline, strip) {
    const drawing = drawTimeline(timeline, strip);
    const texts = timeline.tracks.filter((track) => track.text !== null);
    const root = el("div", {}, drawing);
    for (const track of texts) {
      const largest = largestGap(track.gaps);
      const text = el("div", {}, largest > 0 ? gapLegend(largest) : null, drawText(track.text, track.links, track.gaps));
      text.addEventListener("taro-seek", (event) => drawing.showTime(event.detail.seconds));
      root.append(el("details", {open: track === texts[0]}, el("summary", {}, `${track.label}: what it says`), text));
    }
    return root;
  }

  function fill(root = document) {
    for (const node of root.querySelectorAll("[data-taro-timeline]")) {
      const {timeline, strip} = JSON.parse(node.getAttribute("data-taro-timeline"));
      node.removeAttribute("data-taro-timeline");
      node.replaceChildren(drawAll(timeline, strip));
    }
  }

  window.taro = {el, colour, drawTimeline, drawText, readTimes, drawAll, fill, seconds, spanText};
})();
