// The history of Preview: the last comparisons with their weights, each of which can be brought back or pinned. The list is
// kept in the browser, the pictures in the host's output folder; they are read by GET /blocktrain/v1/pictures/NAME.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const KEPT = 20; // besides the pinned ones
    const NAME = "pictures"; // in what the page remembers
    const FILE = /^[0-9a-f]{16}-[0-9]{1,2}\.png$/;
    const ICON = "M6 2.5h4l-.5 4 2.5 2.5H4l2.5-2.5zM8 9v5";

    const strip = () => document.querySelector("#blocktrain_history .blocktrain-strip");
    let now = null; // the id of the comparison that is shown

    const fits = (one) =>
        typeof one?.id === "string" && Array.isArray(one.values?.loras) && Array.isArray(one.pictures) && one.pictures.length > 0;

    function all() {
        const kept = blocktrain.recall?.(NAME);
        return Array.isArray(kept) ? kept.filter(fits) : [];
    }

    function keep(list) {
        let free = 0;
        blocktrain.remember(NAME, list.filter((one) => one.pinned || ++free <= KEPT));
        draw();
    }

    const made = (...given) => blocktrain.made(...given);
    const tinyU = ({ BASE, ...blocks }) => blocktrain.tinyU(Object.values(blocks));

    function time(one) {
        const then = new Date(one.time * 1000);
        const today = then.toDateString() === new Date().toDateString();
        const options = today ? { hour: "2-digit", minute: "2-digit", hour12: false } : { day: "numeric", month: "short" };
        return then.toLocaleString([], options);
    }

    const active = (one) => one.values.loras.find((lora) => lora.lora === one.values.active) || one.values.loras[0];

    function item(one) {
        const file = one.pictures[one.pictures.length - 1].file;
        const lora = active(one);
        const of = lora ? lora.lora : "no LoRA";
        const picture = made("img", { alt: "", loading: "lazy", width: 82, height: 82 });
        if (FILE.test(file)) {
            picture.src = `./blocktrain/v1/pictures/${file}?small=true`;
        }
        picture.addEventListener("error", () => picture.classList.add("blocktrain-is-gone"));
        const back = made("button", { type: "button" }, picture, made("span", {}, lora ? tinyU(lora.weights) : "", made("small", { textContent: time(one) })));
        back.title = `${of}, seed ${one.seed}: weights, settings and pictures back`;
        back.setAttribute("aria-label", back.title);
        back.addEventListener("click", () => {
            now = one.id;
            blocktrain.pictures.ask({ do: "restore", entry: one });
            draw();
        });
        const pin = made("button", { type: "button", className: "blocktrain-pin", title: one.pinned ? "Pinned: stays. Click to let it go" : "Pin: keep it" });
        pin.setAttribute("aria-label", pin.title);
        pin.setAttribute("aria-pressed", String(Boolean(one.pinned)));
        pin.append(blocktrain.drawn("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, blocktrain.drawn("path", { d: ICON, fill: "none", stroke: "currentColor", "stroke-width": 1.4 })));
        pin.addEventListener("click", () => {
            blocktrain.pictures.ask({ do: "pin", on: !one.pinned, files: one.pictures.map((each) => each.file) });
            keep(all().map((each) => (each.id === one.id ? { ...each, pinned: !one.pinned } : each)));
        });
        const element = made("div", { className: `blocktrain-hist${one.id === now ? " blocktrain-is-now" : ""}` }, back, pin);
        element.setAttribute("role", "listitem");
        return element;
    }

    let drawn = null; // what the strip shows

    function draw() {
        const place = strip();
        if (!place) {
            return;
        }
        const list = all();
        const shown = JSON.stringify([now, list.map((one) => [one.id, one.pinned])]);
        if (drawn !== shown || (list.length > 0 && !place.children.length)) {
            drawn = shown;
            place.replaceChildren(...list.map(item));
            place.closest(".blocktrain-history").hidden = !list.length;
        }
    }

    // The line beside the heading: seed, time, and how long it took.
    function tell(element, entry) {
        const line = document.querySelector("#blocktrain_section_pictures [data-pictures-of]");
        if (line && entry) {
            const took = entry.seconds < 60 ? `${entry.seconds.toFixed(1)} s` : `${Math.round(entry.seconds / 60)} min`;
            line.textContent = `seed ${entry.seed} · drawn ${time(entry)} in ${took}`;
        } else if (line) {
            line.textContent = "";
        }
    }

    let restored = false;

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-pictures", (element) => {
        if (element.dataset.entry) {
            const entry = JSON.parse(element.dataset.entry);
            now = entry.id;
            tell(element, entry);
            restored = true;
            keep([entry, ...all().filter((one) => one.id !== entry.id)]);
        } else if (element.dataset.restored) {
            tell(element, all().find((one) => one.id === element.dataset.restored));
        } else if (element.matches(".blocktrain-shots")) {
            restored = true;
            tell(element, null);
        }
    });

    document.addEventListener("click", (event) => {
        if (event.target.closest?.("#blocktrain [data-clear-history]")) {
            keep(all().filter((one) => one.pinned));
        }
    });

    // After a reload the last pictures come back, if they were drawn with what is set now or something close to it.
    const wait = setInterval(() => {
        const kept = document.querySelector("#blocktrain_kept_preview .blocktrain-kept");
        if (!kept || !strip()) {
            return;
        }
        clearInterval(wait);
        draw();
        const last = all().find((one) => one.id === blocktrain.recall("pictures shown")) || null;
        if (last && !restored) {
            now = last.id;
            restored = true;
            blocktrain.pictures.ask({ do: "pictures", entry: last });
            draw();
        }
    }, 300);

    setInterval(() => now && blocktrain.remember?.("pictures shown", now), 1000);
})();
