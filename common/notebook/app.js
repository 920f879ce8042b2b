// The page of the denoiser. The kernel (app.py) computes; this file draws and asks.

const PIECE_BYTES = 4 << 20; // a server of notebooks refuses messages above 10 MB
// The picture in CSS pixels: labels of frequencies, waveform, spectrogram, labels of times.
const LEFT = 44, RIGHT = 10, WAVE = 90, GAP = 8, SPECTROGRAM = 180, TIMES = 22;
const TICK_SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800];
const LEAST_VIEW_SECONDS = 0.1;

const PAGE = `
<fieldset data-part="controls">
  <label class="drop" data-part="drop">
    <span data-part="song">Drop a song here, or choose a file</span>
    <input type="file" data-part="file">
  </label>
  <div data-part="work" hidden>
    <canvas data-part="picture" role="img" aria-label="waveform and spectrogram; drag over a moment of noise alone to mark it"></canvas>
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
  <div class="row" data-part="downloads"></div>
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

const clock = seconds => {
  const rest = seconds % 60;
  return `${Math.floor(seconds / 60)}:${rest < 10 ? "0" : ""}${+rest.toFixed(2)}`;
};

// Draw the song and let the mouse mark a moment of it. `onMark` is called when a mark is made or removed.
function pictureOf(canvas, ask, onMark) {
  const draw = canvas.getContext("2d");
  let song = { seconds: 1, sample_rate: 1 }, span = [0, 1], mark = null, shown = null, loading = false;

  const width = () => canvas.clientWidth - LEFT - RIGHT;
  const x = second => LEFT + (second - span[0]) / (span[1] - span[0]) * width();
  const second = event => {
    const at = span[0] + (event.offsetX - LEFT) / width() * (span[1] - span[0]);
    return Math.min(Math.max(at, 0), song.seconds);
  };

  const wave = () => {
    const { low, high, span: [start, end] } = shown, middle = WAVE / 2;
    draw.fillStyle = "#2c6fbb";
    low.forEach((value, i) => {
      const left = x(start + (end - start) * i / low.length), right = x(start + (end - start) * (i + 1) / low.length);
      const top = middle * (1 - high[i] / song.peak), bottom = middle * (1 - value / song.peak);
      draw.fillRect(left, top, Math.max(right - left, 0.6), Math.max(bottom - top, 0.6));
    });
  };
  const axes = () => {
    draw.fillStyle = draw.strokeStyle = getComputedStyle(canvas).color;
    const bottom = WAVE + GAP + SPECTROGRAM, step = TICK_SECONDS.find(t => t / (span[1] - span[0]) * width() > 70) ?? 3600;
    draw.textAlign = "center";
    for (let k = Math.ceil(span[0] / step); k * step <= span[1]; k++) {
      draw.fillRect(x(k * step), bottom, 1, 4);
      draw.fillText(clock(k * step), x(k * step), bottom + 16);
    }
    draw.textAlign = "right";
    const top_khz = song.sample_rate / 2000, khz = top_khz > 12 ? 5 : top_khz > 5 ? 2 : 1;
    for (let f = 0; f < top_khz; f += khz) {
      draw.fillText(f ? f : "0 kHz", LEFT - 5, bottom - f / top_khz * SPECTROGRAM + (f ? 4 : 0));
    }
  };
  const marked = () => {
    const [left, right] = mark.map(x);
    draw.fillStyle = "rgba(255, 255, 255, 0.25)";
    draw.fillRect(left, WAVE + GAP, right - left, SPECTROGRAM);
    draw.fillStyle = "rgba(176, 65, 62, 0.25)";
    draw.fillRect(left, 0, right - left, WAVE);
    draw.fillStyle = "#b0413e";
    for (const edge of [left, right]) draw.fillRect(edge - 1, 0, 2, WAVE + GAP + SPECTROGRAM);
  };
  const paint = () => {
    if (!shown || !canvas.clientWidth) return;
    const scale = devicePixelRatio;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    draw.setTransform(scale, 0, 0, scale, 0, 0);
    draw.font = "11px sans-serif";
    axes();
    draw.beginPath();
    draw.rect(LEFT, 0, width(), WAVE + GAP + SPECTROGRAM);
    draw.clip();
    draw.drawImage(shown.image, x(shown.span[0]), WAVE + GAP, x(shown.span[1]) - x(shown.span[0]), SPECTROGRAM);
    wave();
    if (mark) marked();
  };

  // Load the stretch that is looked at; while one loads, only the last of further wishes counts.
  const load = async () => {
    if (loading) return;
    loading = true;
    try {
      while (shown?.span !== span) {
        const wanted = span;
        const [low, high, picture] = (await ask("view", { start: span[0], end: span[1] })).pieces;
        const floats = piece => new Float32Array(piece.buffer.slice(piece.byteOffset, piece.byteOffset + piece.byteLength));
        shown = { low: floats(low), high: floats(high), image: await createImageBitmap(new Blob([picture])), span: wanted };
        song.peak ??= Math.max(1e-6, ...shown.high, ...shown.low.map(Math.abs));
        paint();
      }
    } finally {
      loading = false;
    }
  };
  const look = (start, length) => {
    length = Math.min(Math.max(length, Math.min(LEAST_VIEW_SECONDS, song.seconds)), song.seconds);
    start = Math.min(Math.max(start, 0), song.seconds - length);
    span = [start, start + length];
    paint();
    return load();
  };
  const setMark = value => {
    mark = value;
    paint();
  };

  canvas.onpointerdown = down => {
    const start = second(down);
    canvas.setPointerCapture(down.pointerId);
    canvas.onpointermove = move => setMark([start, second(move)].sort((a, b) => a - b));
    canvas.onpointerup = up => {
      canvas.onpointermove = canvas.onpointerup = null;
      if (Math.abs(up.offsetX - down.offsetX) < 3) setMark(null);
      onMark(mark);
    };
  };
  new ResizeObserver(paint).observe(canvas);
  return {
    open: opened => {
      [song, shown, mark] = [opened, null, null];
      return look(0, song.seconds);
    },
    zoom: factor => {
      const middle = mark && factor < 1 ? (mark[0] + mark[1]) / 2 : (span[0] + span[1]) / 2;
      const length = (span[1] - span[0]) * factor;
      return look(middle - length / 2, length);
    },
    showMark: () => {
      const length = mark[1] - mark[0];
      return look(mark[0] - 2 * length, 5 * length);
    },
    move: share => look(span[0] + share * (span[1] - span[0]), span[1] - span[0]),
    setMark,
  };
}

function render({ model, el }) {
  el.classList.add("denoising-app");
  el.dataset.lmSuppressShortcuts = "true"; // keys mean the page's controls, not commands of JupyterLab
  el.innerHTML = PAGE;
  const part = Object.fromEntries([...el.querySelectorAll("[data-part]")].map(node => [node.dataset.part, node]));
  const tell = (text, share) => {
    part.told.textContent = text;
    if (share == null) part.progress.removeAttribute("value");
    else part.progress.value = share;
  };
  const { ask, disconnect } = connect(model, tell);
  let mark = null;

  // Do one thing at a time: the controls rest meanwhile, and a failure becomes a sentence.
  const doing = async (text, work) => {
    part.error.textContent = "";
    part.controls.disabled = true;
    part.doing.hidden = false;
    tell(text);
    try {
      tell(await work() ?? "");
    } catch (error) {
      tell("");
      part.error.textContent = error.message;
    }
    part.controls.disabled = false;
    part.doing.hidden = part.cancel.hidden = true;
  };
  const showMark = value => {
    mark = value;
    part.error.textContent = "";
    [part.from.value, part.to.value] = mark?.map(second => second.toFixed(2)) ?? ["", ""];
    part.hear.disabled = part.clear.disabled = !mark;
  };
  const picture = pictureOf(part.picture, ask, showMark);
  const setMark = value => {
    showMark(value);
    picture.setMark(value);
  };

  const open = async () => {
    const song = await ask("open");
    if (!song.seconds) return "";
    part.song.textContent = `${song.name}: ${clock(song.seconds)}, ${song.sample_rate / 1000} kHz, ` +
      `${["", "mono", "stereo"][song.channels] ?? `${song.channels} channels`}. Drop another file, or choose one`;
    part.suffix.value = song.suffix;
    part.work.hidden = false;
    showMark(null);
    await picture.open(song);
    return song.outcome;
  };
  const take = file => file && doing(`reading ${file.name}`, async () => {
    part.work.hidden = part.result.hidden = true;
    await upload(ask, file, share => tell(`reading ${file.name}`, share));
    tell(`drawing ${file.name}`);
    return open();
  });
  const save = (name, fileName) => doing(`fetching ${fileName}`, async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await download(ask, name, share => tell(`fetching ${fileName}`, share)));
    link.download = fileName;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
  const denoise = () => doing("loading the weights", async () => {
    part.cancel.hidden = false;
    part.result.hidden = true;
    part.told.scrollIntoView({ block: "nearest" });
    const { outcome, files } = await ask("denoise", {
      weights: part.weights.value, strength: +part.strength.value, suffix: part.suffix.value, noise_print: mark,
    });
    part.player.srcdoc = await (await download(ask, "player", share => tell("preparing the player", share))).text();
    part.downloads.replaceChildren(...Object.entries(files).map(([name, fileName]) => {
      const button = document.createElement("button");
      button.textContent = `download ${fileName}`;
      button.onclick = () => save(name, fileName);
      return button;
    }));
    part.result.hidden = false;
    part.result.scrollIntoView({ block: "nearest" });
    return outcome;
  });

  for (const [name, choices] of [["weights", model.get("weights")], ["suffix", model.get("suffixes").map(s => [s, s.slice(1)])]]) {
    part[name].append(...choices.map(([value, words]) => new Option(words, value)));
  }
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
    if (part.from.value && part.to.value) setMark([+part.from.value, +part.to.value]);
  };
  part["zoom-in"].onclick = () => picture.zoom(1 / 3);
  part["zoom-out"].onclick = () => picture.zoom(3);
  part.earlier.onclick = () => picture.move(-0.5);
  part.later.onclick = () => picture.move(0.5);
  part.clear.onclick = () => setMark(null);
  part.find.onclick = () => doing("looking for a moment of noise alone", async () => {
    setMark((await ask("find")).print);
    await picture.showMark();
  });
  part.hear.onclick = () => doing("", async () => {
    const [sound] = (await ask("hear", { start: mark[0], end: mark[1] })).pieces;
    await new Audio(URL.createObjectURL(new Blob([sound], { type: "audio/wav" }))).play();
  });
  part.strength.oninput = () => { part["strength-shown"].value = part.strength.value; };
  part.denoise.onclick = denoise;
  part.cancel.onclick = () => ask("cancel");
  doing("", open);
  return disconnect;
}

export default { render };
