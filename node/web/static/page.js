// Keeps the page fresh: values every two seconds while it is visible, the whole page when more than
// values has changed, and every half minute for the plots. Times appear in the reader's zone.
"use strict";

const EVERY_MS = 2000;
const WHOLE_EVERY_MS = 30000;
const PATIENCE_MS = 8000;
let wholeAt = Date.now();
let seenAt = performance.now();
let signature = null;

function timeOfDay(at) {
  return String(at.getHours()).padStart(2, "0") + ":" + String(at.getMinutes()).padStart(2, "0");
}

function dayOf(at) {
  return at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

function localTimes(root) {
  for (const plot of root.querySelectorAll(".plot")) {
    const texts = [...plot.querySelectorAll("text[data-ms]")];
    const times = texts.map((text) => new Date(Number(text.dataset.ms)));
    const midnight = (at) => at.getHours() === 0 && at.getMinutes() === 0;
    const severalDays = times.length > 1 && dayOf(times[0]) !== dayOf(times[times.length - 1]);
    const hasMidnight = times.some(midnight);
    texts.forEach((text, index) => {
      // Somewhere else midnight is between two times: the first one of a day is its date.
      const first = index > 0 && dayOf(times[index]) !== dayOf(times[index - 1]);
      const date = midnight(times[index]) || (severalDays && !hasMidnight && first);
      text.textContent = date ? dayOf(times[index]) : timeOfDay(times[index]);
    });
  }
  const two = (number) => String(number).padStart(2, "0");
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    time.textContent =
      `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ` +
      `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  }
  const zone = root.querySelector("#zone");
  if (zone) {
    zone.textContent = "Times are those of " + Intl.DateTimeFormat().resolvedOptions().timeZone;
  }
}

// The value under the pointer: what the line shows there, within the width of its stroke.
function pointsOf(plot) {
  const points = [];
  for (const line of plot.querySelectorAll(".line")) {
    for (const pair of line.getAttribute("d").slice(1).split("L")) {
      points.push(pair.split(" ").map(Number));
    }
  }
  for (const dot of plot.querySelectorAll(".dot")) {
    points.push([Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))]);
  }
  return points;
}

function showValueAt(event) {
  const plot = event.target.closest && event.target.closest(".plot");
  for (const old of document.querySelectorAll(".plot .hover, .plot .at")) old.remove();
  if (!plot || event.type === "pointerleave" || !plot.dataset.top) return;
  const box = plot.viewBox.baseVal;
  const across = ((event.clientX - plot.getBoundingClientRect().left)
    / plot.getBoundingClientRect().width) * box.width;
  let nearest = null;
  for (const point of pointsOf(plot)) {
    if (!nearest || Math.abs(point[0] - across) < Math.abs(nearest[0] - across)) nearest = point;
  }
  if (!nearest || Math.abs(nearest[0] - across) > 12) return;
  const [x, y] = nearest;
  const { left, right, top, floor, low, high, start, end, decimals, unit } = plot.dataset;
  const value = Number(low) + ((floor - y) / (floor - top)) * (high - low);
  const at = new Date(Number(start) + ((x - left) / (right - left)) * (end - start));
  const made = (name, attributes) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, text] of Object.entries(attributes)) part.setAttribute(key, text);
    return plot.appendChild(part);
  };
  made("path", { class: "at", d: `M${x} ${top}V${floor}` });
  const text = made("text", { class: "hover", x: right, y: Number(top) + 6 });
  text.textContent = `${dayOf(at)} ${timeOfDay(at)}  ${value.toFixed(decimals)} ${unit}`;
}

function ageText(seconds) {
  if (seconds < 1) return "now";
  const whole = Math.round(seconds);
  const sizes = [["d", 86400, "h", 3600], ["h", 3600, "m", 60], ["m", 60, "s", 1]];
  for (const [unit, size, smaller, smallerSize] of sizes) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / smallerSize);
      return Math.floor(whole / size) + unit + (rest ? ` ${rest}${smaller}` : "") + " ago";
    }
  }
  return whole + "s ago";
}

function showAges() {
  const passed = (performance.now() - seenAt) / 1000;
  for (const age of document.querySelectorAll(".age[data-age]")) {
    age.textContent = ageText(Number(age.dataset.age) + passed);
  }
}

function lost(is) {
  document.getElementById("lost").hidden = !is;
  document.body.classList.toggle("lost", is);
}

async function ask(address) {
  // fetch refuses an address with a user name and password. location.href does not contain them.
  const answer = await fetch(new URL(address, location.href), {
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer;
}

async function wholePage() {
  const html = await (await ask(location.href)).text();
  const fresh = new DOMParser().parseFromString(html, "text/html");
  localTimes(fresh);
  for (const name of ["header", "main", "footer"]) {
    const old = document.querySelector(name);
    const next = fresh.querySelector(name);
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const markOf = (part) => part.getAttribute("href") || part.value;
    const mark = focused && markOf(focused);
    old.replaceWith(document.importNode(next, true));
    if (mark) {
      const again = [...document.querySelectorAll(`${name} ${focused.localName}`)];
      again.find((part) => markOf(part) === mark)?.focus();
    }
  }
  seenAt = performance.now();
  wholeAt = Date.now();
}

function showValues(now) {
  for (const sensor of now.sensors) {
    const card = document.querySelector(`[data-sensor="${CSS.escape(sensor.id)}"]`);
    if (!card) continue;
    if (sensor.age_s !== null) card.querySelector(".age").dataset.age = sensor.age_s;
    for (const channel of sensor.channels) {
      const place = card.querySelector(`[data-channel="${CSS.escape(channel.channel)}"] b`);
      if (place && place.textContent !== channel.text) place.textContent = channel.text;
    }
  }
  const unsent = document.getElementById("unsent");
  if (unsent) {
    const waiting = now.node.outbox_readings;
    if (!waiting) unsent.textContent = "0 readings";
    else if (!unsent.textContent.startsWith(waiting + " ")) {
      unsent.textContent = waiting + (waiting === 1 ? " reading" : " readings");
    }
  }
}

function whatIsShown() {
  const sensor = location.pathname.startsWith("/sensor/");
  const page = new URLSearchParams(location.search).get("page") || "1";
  return sensor
    ? "sensor=" + location.pathname.slice("/sensor/".length)
    : "page=" + encodeURIComponent(page);
}

async function refresh() {
  try {
    if (document.body.hasAttribute("data-whole")) {
      await wholePage();
      lost(false);
      return;
    }
    const now = await (await ask("/api/v1/now?" + whatIsShown())).json();
    const changed = signature !== null && signature !== now.signature;
    signature = now.signature;
    if (changed || Date.now() - wholeAt > WHOLE_EVERY_MS) {
      await wholePage();
    } else {
      seenAt = performance.now();
      showValues(now);
    }
    lost(false);
  } catch (error) {
    lost(performance.now() - seenAt > PATIENCE_MS);
  }
}

async function go() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((done) => setTimeout(done, EVERY_MS));
  }
}

localTimes(document);
setInterval(showAges, 1000);
document.addEventListener("pointermove", showValueAt);
document.addEventListener("pointerdown", showValueAt);
document.documentElement.addEventListener("pointerleave", showValueAt);
document.addEventListener("submit", ({ submitter }) => {
  submitter.textContent = "Reading …";
  setTimeout(() => { submitter.disabled = true; });  // not before its name and value are sent
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
go();
