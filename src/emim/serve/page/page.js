// The page's only script: takes a video from a file, a drop or the camera, sends it, and shows the answer.

const RECORD_SECONDS = 3;
const part = (id) => document.getElementById(id);
let limits = { max_mb: Infinity, max_seconds: Infinity };
let sending = null;
let camera = null;
let waiting = 0;

async function describeServer() {
  const answer = await fetch("/health");
  const health = await answer.json();
  limits = health.limits;
  part("model").textContent = `${health.classes.length} actions, by ${health.model} (${health.checkpoint}) on ${health.device}:`;
  part("classes").textContent = `${health.classes.join(", ")}.`;
  part("limits").textContent = `At most ${limits.max_mb} MB and ${limits.max_seconds} seconds.`;
}

function show(...ids) {
  clearInterval(waiting);
  for (const id of ["working", "error", "result"]) {
    part(id).hidden = !ids.includes(id);
  }
}

function fail(text) {
  show("error");
  part("error").textContent = text;
}

function stage(text, share) {
  clearInterval(waiting);
  part("stage").textContent = text;
  part("elapsed").textContent = "";
  if (share === undefined) {
    part("progress").removeAttribute("value");
  } else {
    part("progress").value = share;
  }
}

function countSeconds(text) {
  stage(text);
  const begun = performance.now();
  waiting = setInterval(() => {
    part("elapsed").textContent = `${Math.round((performance.now() - begun) / 1000)} s`;
  }, 1000);
}

// Send the video and call `done` with the answer, or `failed` with a sentence. A newer request, or Cancel, ends it.
function post(file, name, pictures, working, done, failed) {
  const form = new FormData();
  form.append("topk", "5");
  form.append("pictures", pictures ? "1" : "0");
  form.append("file", file, name);
  const request = new XMLHttpRequest(); // fetch tells nothing of an upload's progress
  sending = request;
  request.open("POST", "/api/predict");
  request.responseType = "json";
  request.upload.onprogress = (event) => stage(`Sending ${name}`, event.loaded / event.total);
  request.upload.onload = () => countSeconds(working);
  request.onload = () => {
    sending = null;
    if (request.status === 200 && request.response) {
      done(request.response);
    } else {
      failed(request.response?.error ?? `The server answered with status ${request.status}.`);
    }
  };
  request.onerror = () => {
    sending = null;
    failed("The server cannot be reached, or has closed the connection. Is it still running?");
  };
  stage(`Sending ${name}`, 0);
  request.send(form);
}

function stop() {
  sending?.abort();
  sending = null;
}

function send(file, name) {
  stop();
  if (file.size > limits.max_mb * 1048576) {
    fail(`${name}: the file is larger than the ${limits.max_mb} MB that are allowed; cut it or make it smaller.`);
    return;
  }
  show("working");
  // The classes are there at once, pictures take a while: two requests.
  post(file, name, false, `Looking at ${name}`, (answer) => {
    showResult(answer);
    show("working", "result");
    part("result").focus({ preventScroll: true });
    post(file, name, true, `Drawing the motion in ${name}`, (full) => {
      showPictures(full);
      show("result");
    }, (text) => {
      showProblem(`No pictures: ${text}`);
      show("result");
    });
  }, fail);
}

function percent(score) {
  return `${(100 * score).toFixed(1)}%`;
}

function scoreLine({ label, score }) {
  const line = document.createElement("li");
  for (const [kind, text] of [["label", label], ["bar", ""], ["score", percent(score)]]) {
    const piece = document.createElement("span");
    piece.className = kind;
    piece.textContent = text;
    line.append(piece);
  }
  const fill = document.createElement("span");
  fill.style.width = `${100 * score}%`;
  line.querySelector(".bar").append(fill);
  line.querySelector(".bar").setAttribute("aria-hidden", "true");
  return line;
}

function showResult(answer) {
  const best = answer.predictions[0];
  part("result-title").textContent = `${answer.file}: ${best.label}, ${percent(best.score)}`;
  part("scores").replaceChildren(...answer.predictions.map(scoreLine));
  const { video, seconds } = answer;
  part("facts").textContent =
    `${video.frames} frames of ${video.width} × ${video.height} pixels, ${video.seconds.toFixed(1)} s. ` +
    `Read in ${seconds.read.toFixed(1)} s, predicted in ${seconds.predict.toFixed(1)} s.`;
  for (const id of ["motion-figure", "explanation-figure"]) {
    part(id).hidden = true;
  }
  part("motion").removeAttribute("src");
  part("explanation").removeAttribute("src");
  showProblem("");
}

function showPictures({ file, pictures, seconds }) {
  part("facts").textContent += ` Drawn in ${seconds.pictures.toFixed(1)} s.`;
  const motion = part("motion");
  part("motion-figure").hidden = !pictures.motion;
  motion.setAttribute("aria-label", `The motion in ${file}, drawn over it`);
  if (pictures.motion) {
    motion.src = pictures.motion;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
      motion.play().catch(() => {}); // there are controls, where a browser does not want to
    }
  }
  part("explanation-figure").hidden = !pictures.explanation;
  part("description").textContent = pictures.description;
  if (pictures.explanation) {
    part("explanation").src = pictures.explanation;
    part("explanation").alt = pictures.description;
  }
  part("kept").textContent = `after ${Math.round(pictures.kept_seconds / 60)} minutes`;
  showProblem(pictures.problem);
}

function showProblem(text) {
  part("problem").hidden = !text;
  part("problem").textContent = text;
}

function takeFiles(files) {
  if (files.length === 0) {
    return;
  }
  if (files.length > 1) {
    fail("Send one video at a time.");
    return;
  }
  closeCamera();
  send(files[0], files[0].name);
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    fail("This browser gives pages no camera, or only those of localhost and https.");
    return;
  }
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } }, audio: false });
  } catch (error) {
    fail(`The camera cannot be used: ${error.message}.`);
    return;
  }
  part("viewfinder").srcObject = camera;
  await part("viewfinder").play();
  part("recording").hidden = false;
  part("camera").disabled = true;
  part("record").focus();
}

function closeCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  part("viewfinder").srcObject = null;
  part("recording").hidden = true;
  part("camera").disabled = false;
  part("record").disabled = false;
  part("record").textContent = `Record ${RECORD_SECONDS} seconds`;
}

function record() {
  const kind = ["video/webm;codecs=vp8", "video/webm", "video/mp4"].find((name) => MediaRecorder.isTypeSupported(name));
  const recorder = new MediaRecorder(camera, kind ? { mimeType: kind } : {});
  const pieces = [];
  let cut = false;
  recorder.ondataavailable = (event) => pieces.push(event.data);
  recorder.onstop = () => {
    clearInterval(countdown);
    const ending = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
    closeCamera();
    if (cut) {
      send(new Blob(pieces, { type: recorder.mimeType }), `camera.${ending}`);
    }
  };
  part("record").disabled = true;
  let left = RECORD_SECONDS;
  const tell = () => (part("record").textContent = `Recording: ${left} s`);
  const countdown = setInterval(() => {
    left -= 1;
    tell();
    if (left <= 0 && recorder.state === "recording") {
      cut = true;
      recorder.stop();
    }
  }, 1000);
  tell();
  recorder.start();
}

const drop = part("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) {
    drop.classList.remove("over");
  }
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  takeFiles(event.dataTransfer.files);
});
part("file").addEventListener("change", (event) => {
  takeFiles(event.target.files);
  event.target.value = ""; // the same file can be chosen again
});
part("camera").addEventListener("click", openCamera);
part("close-camera").addEventListener("click", closeCamera);
part("record").addEventListener("click", record);
part("cancel").addEventListener("click", () => {
  stop();
  show(...(part("result").hidden ? [] : ["result"]));
});
describeServer().catch(() => fail("The server cannot be reached."));
