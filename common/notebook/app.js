// The page of the denoiser. The kernel (app.py) computes; this file draws and asks.

const PIECE_BYTES = 1 << 20; // a server of notebooks refuses messages above 10 MB
// The picture in CSS pixels: labels of frequencies, waveform, spectrogram, labels of times.
const LEFT = 44, RIGHT = 10, WAVE = 90, GAP = 8, SPECTROGRAM = 180, BOTTOM = WAVE + GAP + SPECTROGRAM;
const BLUE = "#2c6fbb", RED = "#b0413e";
const TICK_SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];
const LEAST_VIEW_SECONDS = 0.1;

const PAGE = `
<fieldset data-part="controls">
  <label class="drop" data-part="drop">
    <span data-part="song">Drop a song here, or choose a file</span>
    <input type="file" data-part="file">
  </label>
  <div data-part="work" hidden>
    <canvas data-part="picture" role="img" title="drag over a moment of noise alone to mark it"
            aria-label="waveform and spectrogram"></canvas>
    <div class="row">
      <span class="group">
        <button data-part="zoom-in" title="zoom in, at the mark if there is one">zoom in</button>
        <button data-part="zoom-out">zoom out</button>
        <button data-part="earlier" aria-label="earlier">◀</button>
        <button data-part="later" aria-label="later">▶</button>
      </span>
      <span class="group" title="a moment of noise without music tells the network what to remove">
        Noise print: <label>from <input type="number" min="0" step="0.01" data-part="from"></label>
        <label>to <input type="number" min="0" step="0.01" data-part="to"> s</label>
        <button data-part="find">find</button>
        <button data-part="hear">hear</button>
        <button data-part="clear">clear</button>
      </span>
    </div>
    <div class="row">
      <label>Weights <select data-part="weights"></select></label>
      <label>Strength <input type="range" min="0" max="1" step="0.05" value="1" data-part="strength">
        <output data-part="strength-shown">1</output></label>
      <label>Write as <select data-part="suffix"></select></label>
      <button class="main" data-part="denoise">Denoise</button>
    </div>
  </div>
</fieldset>
<div class="row" data-part="doing" hidden>
  <progress data-part="progress" max="1" aria-label="progress"></progress>
  <button data-part="cancel" hidden>cancel</button>
</div>
<p data-part="told" role="status"></p>
<p data-part="error" role="alert"></p>
<div data-part="result" hidden>
  <iframe data-part="player" title="player: noisy, denoised, removed" allow="autoplay"></iframe>
  <div class="row"><button data-part="denoised"></button><button data-part="removed"></button></div>
</div>`;

// Give a function that asks the kernel and promises its answer; `onTold` gets what the kernel tells meanwhile.
function connect(model, onTold) {
  const waiting = new Map();
  const receive = ({ id, told, share, ...answer }, pieces) => {
    if (told !== undefined) return onTold(told, share);
    if (!waiting.has(id)) return; // another view of the same widget asked
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    answer.error ? reject(new Error(answer.error)) : resolve({ ...answer, pieces });
  };
  model.on("msg:custom", receive);
  const ask = (request, values = {}, pieces = []) => new Promise((resolve, reject) => {
    const id = Math.random();
    waiting.set(id, { resolve, reject });
    model.send({ id, request, ...values }, undefined, pieces);
  });
  return { ask, disconnect: () => model.off("msg:custom", receive) };
}

// Send a file in pieces.
async function upload(ask, file, onShare) {
  await ask("begin", { name: file.name });
  for (let at = 0; at < file.size; at += PIECE_BYTES) {
    onShare(at / file.size);
    await ask("append", {}, [await file.slice(at, at + PIECE_BYTES).arrayBuffer()]);
  }
}

// Get a file that the kernel made, as a Blob.
async function download(ask, name, onShare) {
  const parts = [];
  for (let got = 0, bytes = 1; got < bytes;) {
    const answer = await ask("fetch", { name, offset: got });
    parts.push(...answer.pieces);
    got += answer.pieces[0].byteLength;
    bytes = answer.bytes;
    onShare(got / bytes);
  }
  return new Blob(parts);
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const clock = seconds => {
  const rest = seconds % 60;
  return `${Math.floor(seconds / 60)}:${rest < 10 ? "0" : ""}${+rest.toFixed(2)}`;
};

// Drawing. `x` maps seconds to pixels.
function drawWave(pen, x, { low, high, span: [start, end] }, peak) {
  const middle = WAVE / 2, step = (end - start) / low.length;
  pen.fillStyle = BLUE;
  low.forEach((value, i) => {
    const left = x(start + step * i), top = middle * (1 - high[i] / peak), bottom = middle * (1 - value / peak);
    pen.fillRect(left, top, Math.max(x(start + step * (i + 1)) - left, 0.6), Math.max(bottom - top, 0.6));
  });
}

function drawTimes(pen, x, [start, end]) {
  const step = TICK_SECONDS.find(seconds => x(seconds) - x(0) > 70) ?? 3600;
  pen.textAlign = "center";
  for (let k = Math.ceil(start / step); k * step <= end; k++) {
    pen.fillRect(x(k * step), BOTTOM, 1, 4);
    pen.fillText(clock(k * step), x(k * step), BOTTOM + 16);
  }
}

function drawFrequencies(pen, topKhz) {
  const step = topKhz > 12 ? 5 : topKhz > 5 ? 2 : 1;
  pen.textAlign = "right";
  for (let khz = 0; khz < topKhz; khz += step) {
    pen.fillText(khz || "0 kHz", LEFT - 5, BOTTOM - khz / topKhz * SPECTROGRAM + (khz ? 4 : 0));
  }
}

function drawMark(pen, left, right) {
  for (const [colour, top, height] of [[`${RED}40`, 0, WAVE], ["#ffffff40", WAVE + GAP, SPECTROGRAM]]) {
    pen.fillStyle = colour;
    pen.fillRect(left, top, right - left, height);
  }
  pen.fillStyle = RED;
  for (const edge of [left, right]) pen.fillRect(edge - 1, 0, 2, BOTTOM);
}

// Load the pictures of stretches, one at a time: of the wishes during a loading only the last one counts.
function loaderOf(ask, onLoaded) {
  let wanted = null, loading = false;
  const floats = piece => new Float32Array(piece.buffer.slice(piece.byteOffset, piece.byteOffset + piece.byteLength));
  return async span => {
    wanted = span;
    if (loading) return;
    loading = true;
    try {
      for (let loaded = null; loaded !== wanted;) {
        loaded = wanted;
        const [low, high, image] = (await ask("view", { start: loaded[0], end: loaded[1] })).pieces;
        const bitmap = await createImageBitmap(new Blob([image]));
        onLoaded({ span: loaded, low: floats(low), high: floats(high), image: bitmap });
      }
    } finally {
      loading = false;
    }
  };
}

// Mark what the mouse is dragged over; a click takes the mark away. `pointed` gives the second that an event points at.
function markByMouse(canvas, pointed, setMark) {
  canvas.onpointerdown = down => {
    const start = pointed(down);
    canvas.setPointerCapture(down.pointerId);
    canvas.onpointermove = move => setMark([start, pointed(move)].sort((a, b) => a - b));
    canvas.onpointerup = up => {
      canvas.onpointermove = canvas.onpointerup = null;
      if (Math.abs(up.offsetX - down.offsetX) < 3) setMark(null);
    };
  };
}

// Show the song on a canvas and let the mouse mark a moment of it. `onMark` is called with a new mark, null for none.
function pictureOf(canvas, ask, onMark) {
  const pen = canvas.getContext("2d");
  let song, span, mark = null, shown = null;
  const width = () => canvas.clientWidth - LEFT - RIGHT;
  const x = second => LEFT + (second - span[0]) / (span[1] - span[0]) * width();
  const paint = () => {
    if (!shown || !canvas.clientWidth) return;
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    pen.scale(devicePixelRatio, devicePixelRatio);
    pen.font = "11px sans-serif";
    pen.fillStyle = getComputedStyle(canvas).color;
    drawTimes(pen, x, span);
    drawFrequencies(pen, song.sample_rate / 2000);
    pen.rect(LEFT, 0, width(), BOTTOM);
    pen.clip();
    const [left, right] = shown.span.map(x);
    pen.drawImage(shown.image, left, WAVE + GAP, right - left, SPECTROGRAM);
    drawWave(pen, x, shown, song.peak);
    if (mark) drawMark(pen, ...mark.map(x));
  };
  const load = loaderOf(ask, loaded => {
    shown = loaded;
    song.peak ??= Math.max(1e-6, ...shown.high, ...shown.low.map(Math.abs));
    paint();
  });
  const look = (start, length) => {
    length = clamp(length, LEAST_VIEW_SECONDS, song.seconds);
    start = clamp(start, 0, song.seconds - length);
    span = [start, start + length];
    paint();
    return load(span);
  };
  const setMark = value => {
    mark = value;
    paint();
    onMark(mark);
  };
  const pointed = event => clamp(span[0] + (event.offsetX - LEFT) / width() * (span[1] - span[0]), 0, song.seconds);
  markByMouse(canvas, pointed, setMark);
  new ResizeObserver(paint).observe(canvas);
  return {
    open: opened => {
      [song, shown] = [opened, null];
      const drawn = look(0, song.seconds);
      setMark(null);
      return drawn;
    },
    zoom: factor => {
      const middle = mark && factor < 1 ? (mark[0] + mark[1]) / 2 : (span[0] + span[1]) / 2;
      return look(middle - (span[1] - span[0]) * factor / 2, (span[1] - span[0]) * factor);
    },
    move: share => look(span[0] + share * (span[1] - span[0]), span[1] - span[0]),
    lookAtMark: () => look(3 * mark[0] - 2 * mark[1], 5 * (mark[1] - mark[0])),
    mark: () => mark,
    setMark,
  };
}

// What people can do, each a promise of words about the outcome or of nothing.
function actionsOf(part, ask, picture, tell) {
  const open = async () => {
    const song = await ask("open");
    if (!song.seconds) return;
    part.song.textContent = `${song.name}: ${clock(song.seconds)}, ${song.sample_rate / 1000} kHz, ` +
      `${["", "mono", "stereo"][song.channels] ?? `${song.channels} channels`}. Drop another file, or choose one`;
    part.suffix.value = song.suffix;
    part.work.hidden = false;
    await picture.open(song);
    return song.outcome;
  };
  const take = async file => {
    part.work.hidden = part.result.hidden = true;
    await upload(ask, file, share => tell(`reading ${file.name}`, share));
    tell(`drawing ${file.name}`);
    return open();
  };
  const find = async () => {
    picture.setMark((await ask("find")).print);
    await picture.lookAtMark();
  };
  const hear = async () => {
    const [start, end] = picture.mark(), [sound] = (await ask("hear", { start, end })).pieces;
    await new Audio(URL.createObjectURL(new Blob([sound], { type: "audio/wav" }))).play();
  };
  const denoise = async () => {
    part.cancel.hidden = false;
    part.result.hidden = true;
    part.told.scrollIntoView({ block: "nearest" });
    const [weights, suffix, strength] = [part.weights.value, part.suffix.value, +part.strength.value];
    const { outcome, files } = await ask("denoise", { weights, suffix, strength, noise_print: picture.mark() });
    part.player.srcdoc = await (await download(ask, "player", share => tell("preparing the player", share))).text();
    for (const [name, fileName] of Object.entries(files)) {
      part[name].textContent = `download ${fileName}`;
      part[name].value = fileName;
    }
    part.result.hidden = false;
    part.result.scrollIntoView({ block: "nearest" });
    return outcome;
  };
  const save = async name => {
    const link = document.createElement("a"), fileName = part[name].value;
    link.href = URL.createObjectURL(await download(ask, name, share => tell(`fetching ${fileName}`, share)));
    link.download = fileName;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };
  return { open, take, find, hear, denoise, save };
}

// Bind the controls to actions, which run one at a time by `run`.
function bind(part, el, run, act, picture) {
  const take = file => file && run(`reading ${file.name}`, () => act.take(file));
  part.file.onchange = () => {
    take(part.file.files[0]);
    part.file.value = ""; // the same file can be chosen again
  };
  el.ondragover = event => event.preventDefault();
  el.ondrop = event => {
    event.preventDefault();
    if (!part.controls.disabled) take(event.dataTransfer.files[0]);
  };
  part.from.onchange = part.to.onchange = () => {
    if (part.from.value && part.to.value) picture.setMark([+part.from.value, +part.to.value]);
  };
  part["zoom-in"].onclick = () => picture.zoom(1 / 3);
  part["zoom-out"].onclick = () => picture.zoom(3);
  part.earlier.onclick = () => picture.move(-0.5);
  part.later.onclick = () => picture.move(0.5);
  part.clear.onclick = () => picture.setMark(null);
  part.find.onclick = () => run("looking for a moment of noise alone", act.find);
  part.hear.onclick = () => run("", act.hear);
  part.strength.oninput = () => { part["strength-shown"].value = part.strength.value; };
  part.denoise.onclick = () => run("loading the weights", act.denoise);
  for (const name of ["denoised", "removed"]) part[name].onclick = () => run("", () => act.save(name));
}

function render({ model, el }) {
  el.classList.add("denoising-app");
  el.dataset.lmSuppressShortcuts = "true"; // keys mean the page's controls, not commands of JupyterLab
  el.innerHTML = PAGE;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map(node => [node.dataset.part, node]));
  for (const name of ["weights", "suffix"]) {
    part[name].append(...model.get(name).map(([value, words]) => new Option(words, value)));
  }
  const tell = (text, share) => {
    part.told.textContent = text;
    if (share == null) part.progress.removeAttribute("value");
    else part.progress.value = share;
  };
  const { ask, disconnect } = connect(model, tell);
  const picture = pictureOf(part.picture, ask, mark => {
    part.error.textContent = "";
    [part.from.value, part.to.value] = mark?.map(second => second.toFixed(2)) ?? ["", ""];
    part.hear.disabled = part.clear.disabled = !mark;
  });
  // The controls rest while something is done, and a failure becomes a sentence.
  const run = async (text, action) => {
    part.error.textContent = "";
    part.controls.disabled = true;
    part.doing.hidden = false;
    tell(text);
    try {
      tell(await action() ?? "");
    } catch (error) {
      tell("");
      part.error.textContent = error.message;
    }
    part.controls.disabled = false;
    part.doing.hidden = part.cancel.hidden = true;
  };
  const act = actionsOf(part, ask, picture, tell);
  bind(part, el, run, act, picture);
  part.cancel.onclick = () => ask("cancel");
  run("", act.open);
  return disconnect;
}

export default { render };
