// The overlay: pictures with points, boxes and ordered traces as SVG. Runs once per component with Gradio's `element`,
// `props` and `watch`. Coordinates are image pixels (the viewBox); strokes, marks and words keep their size on screen.
// Words of models and users become text nodes only.
const SVG = "http://www.w3.org/2000/svg";
const KINDS = ["points", "boxes", "traces"];
const NAMES = { points: "point", boxes: "box", traces: "trace" };
const MARK = 7, TOUCH = 22, TEXT = 13, ARROW = 11; // screen pixels

const root = element.querySelector(".ov");
const part = (name) => root.querySelector(".ov-" + name);
const state = { value: null, picture: 0, hidden: new Set(), selected: null, original: null, nodes: [] };

function html(tag, attributes = {}, text = null) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}
function svg(tag, attributes = {}, parent = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.appendChild(node);
  return node;
}
const set = (node, attributes) => { for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value); };
const copy = (value) => JSON.parse(JSON.stringify(value));
const short = (text, most = 40) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
const round = (value) => Math.round(value * 100) / 100;

// --- Positions of an item: what can be taken hold of -------------------------------------------------------------
function holds(kind, item) {
  if (kind === "points") return [item.xy];
  if (kind === "traces") return item.points;
  const [x1, y1, x2, y2] = item.xyxy;
  return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];
}
function moveHold(kind, item, index, [x, y]) {
  if (kind === "points") item.xy = [x, y];
  else if (kind === "traces") item.points[index] = [x, y];
  else {
    // A corner stays on its side of the opposite one, half a pixel away at least.
    const box = item.xyxy;
    if (index === 0 || index === 3) box[0] = Math.min(x, box[2] - 0.5); else box[2] = Math.max(x, box[0] + 0.5);
    if (index < 2) box[1] = Math.min(y, box[3] - 0.5); else box[3] = Math.max(y, box[1] + 0.5);
  }
}
function holdName(kind, item, index, number) {
  const label = item.label ? ", " + item.label : "";
  const [x, y] = holds(kind, item)[index].map((value) => value.toFixed(1));
  const piece = kind === "traces" ? `, waypoint ${index + 1} of ${item.points.length}`
    : kind === "boxes" ? `, ${["top left", "top right", "bottom right", "bottom left"][index]} corner` : "";
  return `${NAMES[kind]} ${number}${label}${piece}: x ${x}, y ${y}`;
}

// --- Drawing -----------------------------------------------------------------------------------------------------
const shown = () => state.value && state.value.pictures[state.picture];

function colourOf(colours, label) {
  const key = label || "";
  if (!colours.has(key)) colours.set(key, props.palette[colours.size % props.palette.length]);
  return colours.get(key);
}

function build() {
  const stage = part("stage"), picture = shown();
  stage.replaceChildren();
  state.nodes = [];
  if (!picture) return;
  const canvas = svg("svg", { class: "ov-svg", viewBox: `0 0 ${picture.width} ${picture.height}`,
    role: "group", "aria-label": `${short(picture.name || "picture", 80)} with the answer drawn on it` }, stage);
  canvas.style.aspectRatio = `${picture.width} / ${picture.height}`;
  svg("image", { href: picture.image.url, x: 0, y: 0, width: picture.width, height: picture.height,
    preserveAspectRatio: "none" }, canvas);
  const colours = new Map();
  picture.layers.forEach((layer, layerIndex) => {
    const group = svg("g", { class: layer.editable ? "ov-answer" : "ov-annotated" }, canvas);
    if (layer.editable) group.setAttribute("data-editable", "");
    for (const kind of ["boxes", "traces", "points"]) {
      layer[kind].forEach((item, index) => {
        const entry = { layer: layerIndex, kind, index, item, number: index + 1, editable: layer.editable,
          colour: colourOf(colours, item.label) };
        drawItem(entry, group);
        state.nodes.push(entry);
      });
    }
  });
  canvas.addEventListener("pointerdown", (event) => { if (event.target.tagName === "image") select(null); });
  layOut();
  showHidden();
}

function drawItem(entry, parent) {
  const { kind, item, colour } = entry;
  const group = svg("g", { class: `ov-item ov-${kind}` }, parent);
  entry.group = group;
  if (kind === "boxes") {
    entry.halo = svg("rect", { class: "ov-halo", "stroke-width": 5 }, group);
    entry.line = svg("rect", { class: "ov-line", stroke: colour, "stroke-width": 2.5 }, group);
  } else if (kind === "traces") {
    entry.halo = svg("polyline", { class: "ov-halo", "stroke-width": 6 }, group);
    entry.pieces = item.points.slice(1).map((_, i) => svg("line", { class: "ov-line", stroke: colour,
      "stroke-width": 3.5, opacity: 0.45 + 0.55 * ((i + 1) / Math.max(1, item.points.length - 1)) }, group));
    entry.arrow = svg("path", { fill: colour, stroke: "#000", "stroke-width": 1, "vector-effect": "non-scaling-stroke" }, group);
  }
  entry.handles = holds(kind, item).map((_, index) => drawHandle(entry, index));
  entry.text = svg("text", {}, group);
  // What is annotated has words only where no answer stands beside it.
  const alone = entry.editable || !shown().layers.some((layer) => layer.editable && KINDS.some((one) => layer[one].length));
  const words = `${entry.number}${item.label ? " " + short(item.label, 28) : ""}`;
  entry.text.textContent = alone ? words + (entry.editable ? "" : " ✓") : "✓";
}

function drawHandle(entry, index) {
  const { kind, item, colour, editable, group } = entry;
  const handle = svg("g", { class: "ov-handle", role: "button", tabindex: 0 }, group);
  const node = { handle, index };
  if (kind === "points") {
    node.marks = [svg("circle", { class: "ov-halo", "stroke-width": 5 }, handle),
      svg("circle", { class: "ov-line", stroke: colour, "stroke-width": 3 }, handle)];
    node.dot = svg("circle", { fill: colour, stroke: "#000", "stroke-width": 1, "vector-effect": "non-scaling-stroke" }, handle);
  } else {
    node.dot = svg("circle", { fill: kind === "traces" && index === 0 ? "#fff" : colour, stroke: "#000", "stroke-width": 1.2,
      "vector-effect": "non-scaling-stroke" }, handle);
  }
  node.focus = svg("circle", { class: "ov-focus" }, handle);
  node.hit = svg("circle", { class: "ov-hit" }, handle);
  handle.addEventListener("focus", () => select(entry, index, false));
  handle.addEventListener("pointerdown", (event) => grab(event, entry, index));
  handle.addEventListener("keydown", (event) => key(event, entry, index));
  return node;
}

// Sizes and places for the present scale; called after every move and every change of the size on screen.
function layOut() {
  const canvas = part("stage").querySelector("svg"), picture = shown();
  if (!canvas || !picture) return;
  const scale = canvas.clientWidth ? Math.min(canvas.clientWidth / picture.width, canvas.clientHeight / picture.height) : 1;
  for (const entry of state.nodes) placeItem(entry, 1 / scale, picture);
}

function placeItem(entry, unit, picture) {
  const { kind, item } = entry, places = holds(kind, item);
  if (kind === "boxes") {
    const [x1, y1, x2, y2] = item.xyxy;
    for (const rect of [entry.halo, entry.line]) set(rect, { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) });
  } else if (kind === "traces") {
    set(entry.halo, { points: places.map((xy) => xy.join(",")).join(" ") });
    entry.pieces.forEach((line, i) => set(line, { x1: places[i][0], y1: places[i][1], x2: places[i + 1][0], y2: places[i + 1][1] }));
    set(entry.arrow, { d: arrowHead(places, ARROW * unit) });
  }
  const isPoint = kind === "points";
  entry.handles.forEach(({ handle, index, marks, dot, focus, hit }) => {
    const at = { cx: places[index][0], cy: places[index][1] };
    (marks || []).forEach((mark) => set(mark, { ...at, r: MARK * unit }));
    set(dot, { ...at, r: (isPoint ? 2 : entry.editable || kind === "traces" ? 4 : 0) * unit });
    set(focus, { ...at, r: (MARK + 5) * unit });
    set(hit, { ...at, r: (entry.editable ? TOUCH : MARK) * unit / (kind === "points" ? 1 : 1.6) });
    handle.setAttribute("aria-label", holdName(kind, item, index, entry.number) + (entry.editable ? "; arrow keys move it" : " (annotated)"));
  });
  placeText(entry, places, unit, picture);
}

function placeText(entry, places, unit, picture) {
  const size = TEXT * unit, text = entry.text, [x, y] = entry.kind === "traces" ? places[places.length - 1] : places[0];
  const beside = entry.kind === "boxes" ? 0 : (MARK + 4) * unit;
  set(text, { "font-size": size, "stroke-width": 3.5 * unit });
  const length = text.getComputedTextLength();
  const flips = x + beside + length > picture.width && x - beside - length > 0;
  const left = flips ? x - beside - length : Math.max(0, Math.min(x + beside, picture.width - length));
  const lift = entry.kind === "boxes" ? -5 * unit : 0.35 * size;
  const base = y + lift < size ? y + size + 3 * unit : Math.min(y + lift, picture.height - 3 * unit);
  set(text, { x: left, y: base });
}

function arrowHead(places, size) {
  const [x, y] = places[places.length - 1];
  let from = places.length - 2;
  while (from > 0 && Math.hypot(x - places[from][0], y - places[from][1]) < 1e-6) from -= 1;
  const angle = Math.atan2(y - places[from][1], x - places[from][0]);
  const wing = (turn) => `${x - size * Math.cos(angle + turn)} ${y - size * Math.sin(angle + turn)}`;
  return `M ${x} ${y} L ${wing(0.5)} L ${wing(-0.5)} Z`;
}

// --- Correcting --------------------------------------------------------------------------------------------------
function toPixels(event) {
  const canvas = part("stage").querySelector("svg");
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(canvas.getScreenCTM().inverse());
  return [at.x, at.y];
}
function moveTo(entry, index, [x, y]) {
  const picture = shown();
  moveHold(entry.kind, entry.item, index,
    [round(Math.min(Math.max(x, 0), picture.width)), round(Math.min(Math.max(y, 0), picture.height))]);
  layOut();
  tell();
}
function grab(event, entry, index) {
  select(entry, index);
  if (!entry.editable || event.button > 0) return;
  event.preventDefault();
  const handle = entry.handles[index].handle, start = toPixels(event), held = holds(entry.kind, entry.item)[index].slice();
  let moved = false;
  handle.setPointerCapture(event.pointerId);
  const move = (next) => {
    const at = toPixels(next);
    if (!moved && Math.hypot(next.clientX - event.clientX, next.clientY - event.clientY) < 3) return; // a tap
    moved = true;
    moveTo(entry, index, [held[0] + at[0] - start[0], held[1] + at[1] - start[1]]);
  };
  const end = () => {
    for (const [name, listener] of [["pointermove", move], ["pointerup", end], ["pointercancel", end]]) {
      handle.removeEventListener(name, listener);
    }
    if (moved) commit();
  };
  handle.addEventListener("pointermove", move);
  handle.addEventListener("pointerup", end);
  handle.addEventListener("pointercancel", end);
}
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function key(event, entry, index) {
  if (!entry.editable) return;
  if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); remove(); return; }
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  const pixels = event.shiftKey ? 10 : 1, [x, y] = holds(entry.kind, entry.item)[index];
  moveTo(entry, index, [x + pixels * step[0], y + pixels * step[1]]);
  commit();
}
function remove() {
  if (!state.selected || !state.selected.entry.editable) return;
  const { layer, kind, index } = state.selected.entry;
  shown().layers[layer][kind].splice(index, 1);
  state.selected = null;
  commit();
  build();
  tell();
}
// The backend sees the corrected value when a button takes this component as its input.
function commit() {
  state.value.edited = true;
  props.value = copy(state.value);
  part("reset").disabled = false;
}
function reset() {
  state.value = copy(state.original);
  props.value = copy(state.original);
  select(null);
  show();
}

// --- What is selected, which layers are shown --------------------------------------------------------------------
function select(entry, index = 0, focus = true) {
  for (const other of state.nodes) other.handles.forEach(({ handle }) => handle.classList.remove("ov-selected"));
  state.selected = entry ? { entry, index } : null;
  if (entry) {
    const handle = entry.handles[index].handle;
    handle.classList.add("ov-selected");
    if (focus && document.activeElement !== handle) handle.focus({ preventScroll: true });
  }
  tell();
}
function tell() {
  const info = part("info"), picture = shown();
  part("delete").disabled = !(state.selected && state.selected.entry.editable);
  if (state.selected) info.textContent = holdName(state.selected.entry.kind, state.selected.entry.item, state.selected.index, state.selected.entry.number);
  else info.textContent = picture && picture.layers.some((layer) => layer.editable && KINDS.some((kind) => layer[kind].length))
    ? "Tap a mark to select it; drag it, or use the arrow keys, to correct it." : "";
}
function showHidden() {
  for (const entry of state.nodes) {
    const off = state.hidden.has(entry.kind) || (!entry.editable && state.hidden.has("annotated"));
    entry.group.style.display = off ? "none" : "";
    entry.text.style.display = state.hidden.has("labels") ? "none" : "";
  }
}
function toggles() {
  const bar = part("toggles"), picture = shown();
  const count = (kind) => picture.layers.reduce((sum, layer) => sum + layer[kind].length, 0);
  const found = KINDS.filter((kind) => count(kind)).map((kind) => [kind, `${kind} ${count(kind)}`]);
  if (found.length) found.push(["labels", "labels"]);
  if (picture.layers.some((layer) => !layer.editable)) found.push(["annotated", "annotated ✓"]);
  bar.replaceChildren(...found.map(([name, words]) => {
    const button = html("button", { type: "button", "aria-pressed": String(!state.hidden.has(name)), "data-layer": name }, words);
    button.addEventListener("click", () => {
      if (state.hidden.has(name)) state.hidden.delete(name); else state.hidden.add(name);
      button.setAttribute("aria-pressed", String(!state.hidden.has(name)));
      showHidden();
    });
    return button;
  }));
}
function strip() {
  const pictures = state.value.pictures, bar = part("strip");
  bar.hidden = pictures.length < 2;
  bar.replaceChildren(...(pictures.length < 2 ? [] : pictures).map((picture, index) => {
    const button = html("button", { type: "button", role: "tab", "aria-selected": String(index === state.picture) });
    button.append(html("img", { src: picture.image.url, alt: "" }), html("span", {}, `${index + 1} ${picture.name || ""}`));
    button.addEventListener("click", () => { state.picture = index; state.selected = null; show(); });
    return button;
  }));
}
function message() {
  const box = part("message"), said = state.value && state.value.message;
  box.hidden = !said;
  box.replaceChildren();
  if (!said) return;
  box.setAttribute("data-kind", said.kind);
  box.setAttribute("role", said.kind === "error" ? "alert" : "status");
  if (said.title) box.append(html("b", {}, said.title));
  box.append(document.createTextNode(said.text));
}
function show() {
  message();
  const picture = shown();
  part("empty").hidden = Boolean(picture) || Boolean(state.value && state.value.message);
  for (const name of ["bar", "stage", "strip", "info"]) part(name).hidden = !picture;
  if (picture) { strip(); toggles(); }
  build();
  tell();
  part("reset").disabled = !(state.value && state.value.edited);
}
function take() {
  state.value = props.value ? copy(props.value) : null;
  state.original = copy(state.value);
  state.selected = null;
  state.picture = 0;
  show();
  // On a phone the answer is far below the button.
  const visible = root.offsetParent !== null && state.value;
  if (visible && root.getBoundingClientRect().top > window.innerHeight * 0.8) root.scrollIntoView({ block: "start" });
}

part("reset").addEventListener("click", reset);
part("delete").addEventListener("click", remove);
new ResizeObserver(layOut).observe(part("stage"));
watch("value", take);
take();
