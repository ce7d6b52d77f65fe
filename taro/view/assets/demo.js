// Joins the player and the timeline: a bar or a time in the text seeks, and the cursor follows the player.
(() => {
  "use strict";

  document.addEventListener("taro-seek", (event) => {
    const player = document.querySelector("video");
    if (player) player.currentTime = event.detail.seconds;
  });
  document.addEventListener("timeupdate", (event) => {
    document.querySelectorAll(".taro-timeline").forEach((drawing) => drawing.showTime(event.target.currentTime));
  }, true);

  // Of the video that is there now; its error is gone when it loads another one.
  const judge = () => document.body?.classList.toggle("unplayable", Boolean(document.querySelector("video")?.error));
  for (const kind of ["error", "loadstart"]) document.addEventListener(kind, judge, true);

  // What is said of one file ends with the next one, even where that is refused before it is sent.
  const forget = (event) => { if (event.target.closest?.("#video")) document.querySelector("#forget")?.click(); };
  for (const kind of ["change", "drop"]) document.addEventListener(kind, forget, true);

  // Answers come as HTML, whose scripts don't run.
  const draw = () => { judge(); if (document.querySelector("[data-taro-timeline]")) window.taro.fill(); };
  new MutationObserver(draw).observe(document.documentElement, {childList: true, subtree: true});
  draw();
})();
