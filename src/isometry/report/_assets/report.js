(function () {
  "use strict";
  var root = document.documentElement;
  var read = function (id) { return JSON.parse(document.getElementById(id).textContent); };
  var touch = window.matchMedia("(pointer: coarse)").matches;
  var darkSystem = window.matchMedia("(prefers-color-scheme: dark)");
  var printing = window.matchMedia("print").matches;
  var plots = null; // {themes: {light, dark}, figures: {key: figure}}
  var drawn = {};

  // --- light and dark -----------------------------------------------------------------------------------------------
  function remembered() { try { return localStorage.getItem("isometry-theme"); } catch (e) { return null; } }
  function remember(theme) { try { localStorage.setItem("isometry-theme", theme); } catch (e) { /* not allowed: forget */ } }
  function isDark() {
    var chosen = root.dataset.theme;
    return !printing && (chosen ? chosen === "dark" : darkSystem.matches);
  }
  function labelToggle() {
    var button = document.getElementById("theme");
    if (!button) { return; }
    button.setAttribute("aria-pressed", String(isDark()));
    button.querySelector(".sun").style.display = isDark() ? "" : "none";
    button.querySelector(".moon").style.display = isDark() ? "none" : "";
  }
  function follow() { labelToggle(); restyle(); }

  // --- plots --------------------------------------------------------------------------------------------------------
  var config = {
    displaylogo: false,
    responsive: true,
    // An explicit list: plotly's own set has a button that sends the chart to a server.
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    displayModeBar: !touch, // the style sheet shows it on hover and on focus
    toImageButtonOptions: { format: "svg", filename: "isometry" }
  };
  function layoutOf(key) {
    var layout = Object.assign({}, plots.figures[key].layout);
    layout.template = plots.themes[isDark() ? "dark" : "light"];
    layout.autosize = true;
    // A finger that scrolls the page must not zoom a plot.
    if (touch) { layout.dragmode = false; }
    return layout;
  }
  function draw(key) {
    var box = document.getElementById("plot-" + key);
    var waiting = box.querySelector(".waiting");
    return window.Plotly.newPlot(box, plots.figures[key].data, layoutOf(key), config).then(function () {
      if (waiting) { waiting.remove(); }
      drawn[key] = box;
    });
  }
  function restyle() {
    return Promise.all(Object.keys(drawn).map(function (key) {
      return window.Plotly.react(drawn[key], plots.figures[key].data, layoutOf(key), config);
    }));
  }
  function tell(message) {
    document.querySelectorAll(".plot .waiting").forEach(function (box) { box.textContent = message; });
    root.dataset.plots = "failed";
  }

  // plotly.js travels compressed; it is unpacked only after the findings are on the screen.
  function unpack() {
    var packed = atob(document.getElementById("plotly-gz").textContent.trim());
    var bytes = Uint8Array.from(packed, function (letter) { return letter.charCodeAt(0); });
    var stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text().then(function (source) {
      var script = document.createElement("script");
      script.textContent = source;
      document.head.appendChild(script);
      script.remove();
      if (!window.Plotly) { throw new Error("plotly.js did not start"); }
    });
  }
  function drawAll() {
    var keys = Object.keys(plots.figures);
    var next = function () {
      var key = keys.shift();
      if (!key) { root.dataset.plots = "drawn"; return; }
      return draw(key).then(function () { setTimeout(next, 0); }); // let the reader scroll between two plots
    };
    return next();
  }
  function start() {
    performance.mark("isometry-plots");
    plots = read("isometry-figures");
    if (!Object.keys(plots.figures).length) { root.dataset.plots = "drawn"; return; }
    if (typeof DecompressionStream === "undefined") {
      tell("This browser is too old for the plots (it lacks DecompressionStream). The text below says what they show.");
      return;
    }
    unpack().then(drawAll).catch(function (error) {
      tell("The plots could not be drawn (" + error.message + "). The text below says what they show.");
    });
  }

  // --- raw data -----------------------------------------------------------------------------------------------------
  function download(event) {
    var text = JSON.stringify(read("isometry-content"), null, 1);
    var link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = event.target.dataset.name;
    link.click();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
  }
  function showRaw(event) {
    var place = event.target.querySelector("pre");
    if (event.target.open && !place.textContent) { place.textContent = JSON.stringify(read("isometry-content"), null, 1); }
  }

  // --- start --------------------------------------------------------------------------------------------------------
  root.classList.add("js");
  if (remembered()) { root.dataset.theme = remembered(); }
  document.addEventListener("DOMContentLoaded", function () {
    labelToggle();
    darkSystem.addEventListener("change", follow);
    document.getElementById("theme").addEventListener("click", function () {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      follow();
    });
    var button = document.getElementById("download");
    if (button) { button.addEventListener("click", download); }
    var raw = document.getElementById("raw");
    if (raw) { raw.addEventListener("toggle", showRaw); }
    window.addEventListener("beforeprint", function () { printing = true; restyle(); });
    window.addEventListener("afterprint", function () { printing = false; restyle(); });
    // Two frames later the findings are on the screen.
    requestAnimationFrame(function () { requestAnimationFrame(function () { setTimeout(start, 0); }); });
  });
})();
