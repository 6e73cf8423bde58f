// The canvas of regions.py. Gradio provides element, trigger, props and watch.
const canvas = element.querySelector("canvas");
const MOST = 16; // regions
const SHORTEST = 0.05; // seconds of a region
const GRIP = 7; // pixels around an edge in which it is grabbed
const AXIS = 18; // pixels of the times below the waveform
let drag = null; // while dragging: the other regions, the fixed and the moving end in seconds

const current = () => props.value || {peaks: [], duration: 0, regions: []};
const pixels = (seconds) => (seconds / current().duration) * canvas.clientWidth;

function secondsAt(event) {
  const {duration} = current(), x = event.clientX - canvas.getBoundingClientRect().left;
  if (x > canvas.clientWidth - GRIP / 2) return duration;
  return x < GRIP / 2 ? 0 : Math.min(duration, Math.round((x / canvas.clientWidth) * duration * 100) / 100);
}

// The region with an edge near the pointer, and that edge's opposite end.
function edgeAt(event) {
  const x = event.clientX - canvas.getBoundingClientRect().left;
  for (const region of current().regions)
    for (const side of [0, 1])
      if (Math.abs(pixels(region[side]) - x) < GRIP) return {region, opposite: region[1 - side]};
  return null;
}

// Sorted, those that overlap joined.
function merged(regions) {
  const found = [];
  for (const [start, end] of regions.map((one) => [...one]).sort((a, b) => a[0] - b[0])) {
    const last = found.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else found.push([start, end]);
  }
  return found;
}

function change(regions) {
  const found = merged(regions);
  if (found.length <= MOST) {
    props.value = {...current(), regions: found};
    trigger("input");
  }
  draw();
}

function shownRegions() {
  if (!drag) return current().regions;
  return [...drag.others, [Math.min(drag.fixed, drag.moving), Math.max(drag.fixed, drag.moving)]];
}

function draw() {
  const width = canvas.clientWidth, height = canvas.clientHeight - AXIS, scale = devicePixelRatio || 1;
  if (!width) return; // in a hidden tab
  canvas.width = width * scale;
  canvas.height = canvas.clientHeight * scale;
  const {peaks, duration} = current(), style = getComputedStyle(canvas), pen = canvas.getContext("2d");
  const color = (name) => style.getPropertyValue(name).trim();
  canvas.title = duration ? `${Number(duration.toFixed(2))} s` : "";
  pen.scale(scale, scale);
  pen.font = `12px ${style.fontFamily}`;
  pen.textBaseline = "middle";
  if (!duration) {
    pen.fillStyle = color("--body-text-color");
    pen.textAlign = "center";
    pen.fillText("The waveform appears here.", width / 2, canvas.clientHeight / 2);
    return;
  }
  const regions = shownRegions(), accent = color("--color-accent");
  drawRegions(pen, regions, height, accent);
  const bars = Math.min(peaks.length, Math.floor(width / 2));
  for (let bar = 0; bar < bars; bar++) {
    const first = Math.floor((bar * peaks.length) / bars), end = Math.ceil(((bar + 1) * peaks.length) / bars);
    const size = Math.max(1, Math.max(...peaks.slice(first, end)) * (height - 10)), middle = ((bar + 0.5) / bars) * duration;
    const inside = regions.some(([start, end]) => start <= middle && middle < end);
    pen.fillStyle = inside ? accent : color("--body-text-color");
    pen.globalAlpha = inside ? 1 : 0.55;
    pen.fillRect((bar * width) / bars, (height - size) / 2, Math.max(1, width / bars - 1), size);
  }
  pen.globalAlpha = 1;
  drawTimes(pen, width, height, color("--body-text-color"));
}

function drawRegions(pen, regions, height, accent) {
  pen.fillStyle = accent;
  for (const [start, end] of regions) {
    const left = pixels(start), right = pixels(end);
    pen.globalAlpha = 0.2;
    pen.fillRect(left, 0, right - left, height);
    pen.globalAlpha = 1;
    pen.fillRect(left, 0, 2, height);
    pen.fillRect(right - 2, 0, 2, height);
  }
}

function drawTimes(pen, width, height, color) {
  const {duration} = current(), steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120];
  const step = steps.find((one) => pixels(one) >= 48) ?? steps.at(-1);
  pen.fillStyle = color;
  for (let number = 0; number * step <= duration; number++) {
    const x = pixels(number * step), text = `${Number((number * step).toFixed(1))} s`;
    const size = pen.measureText(text).width;
    pen.fillRect(Math.min(x, width - 1), height, 1, 4);
    pen.textAlign = "left";
    pen.fillText(text, Math.min(Math.max(2, x - size / 2), width - size - 2), height + 11);
  }
}

canvas.addEventListener("pointerdown", (event) => {
  if (!current().duration || event.button) return;
  const edge = edgeAt(event), at = secondsAt(event);
  const others = current().regions.filter((one) => one !== edge?.region);
  drag = {others, fixed: edge ? edge.opposite : at, moving: at, start: event.clientX, edge};
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (drag) drag.moving = secondsAt(event);
  else canvas.style.cursor = current().duration ? (edgeAt(event) ? "ew-resize" : "crosshair") : "default";
  if (drag) draw();
});
canvas.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const {others, fixed, moving, start, edge} = drag, moved = Math.abs(event.clientX - start) > 2;
  drag = null;
  const region = [Math.min(fixed, moving), Math.max(fixed, moving)];
  const kept = region[1] - region[0] >= SHORTEST ? [region] : [];
  if (moved && (kept.length || edge)) change([...others, ...kept]);
  else draw();
});
canvas.addEventListener("pointercancel", () => { drag = null; draw(); });
canvas.addEventListener("dblclick", () => change([]));
canvas.addEventListener("keydown", (event) => {
  if (!["Delete", "Backspace", "Escape"].includes(event.key)) return;
  event.preventDefault();
  change([]);
});

watch("value", draw);
new ResizeObserver(draw).observe(canvas); // a canvas in a hidden tab has no width
new MutationObserver(draw).observe(document.body, {attributeFilter: ["class"]}); // dark mode
draw();
