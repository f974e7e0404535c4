// Train's pictures: the set that is in its field of folders, by name, count and thumbnails, and the way to Pictures.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const THUMBNAILS = 8;
    const PAUSE = 400; // milliseconds between two looks at the field
    let root = null;
    let shown = null; // the text of the fields that is shown
    let number = 0;

    const made = (...given) => blocktrain.made(...given);
    const field = (name) => document.querySelector(`#blocktrain_train_dataset_${name} :is(textarea, input)`)?.value.trim() || "";

    function line(text, warn) {
        const shown_ = made("p", { className: "blocktrain-line" });
        if (warn) {
            shown_.classList.add("blocktrain-is-warn");
            shown_.append(dataset.icon("warn"));
        }
        shown_.append(text);
        return shown_;
    }

    function button(label, className, run) {
        const shown_ = made("button", { type: "button", className: `blocktrain-btn ${className}`, textContent: label });
        shown_.addEventListener("click", run);
        return shown_;
    }

    function toPictures(set, flag) {
        blocktrain.go?.("pictures");
        if (set) {
            dataset.attempt(async () => {
                await dataset.open(set);
                if (flag && !dataset.state.flags.has(flag)) {
                    dataset.toggle("flags", flag);
                }
            });
        }
    }

    const choose = (label, set) => button(label, "blocktrain-is-strong", () => toPictures(set));

    function none(text, warn = false) {
        root.replaceChildren(line(text, warn), choose("Choose…"));
    }

    // Folders that are not sets of Pictures: their first pictures, and how many there are.
    async function drawPaths(paths, stillAsked) {
        const found = await dataset.ask("glance", { paths, shown: THUMBNAILS });
        if (!stillAsked()) {
            return;
        }
        const images = found.thumbnails.map((src) => made("img", { alt: "", src }));
        const where = paths[0].endsWith(".toml") ? "a .toml" : dataset.many(paths.length, "folder");
        const words = line(`${dataset.many(found.pictures, "picture")} in ${where} by path`);
        root.replaceChildren(heading(words, choose("Choose…")), thumbnails(images, found.pictures));
    }

    function thumbnails(images, count) {
        const thumbs = made("div", { className: "blocktrain-thumbs" }, ...images);
        if (count > images.length) {
            thumbs.append(made("span", { textContent: `+${count - images.length}` }));
        }
        return thumbs;
    }

    const heading = (...given) => made("div", { className: "blocktrain-train-set-h" }, ...given);

    async function draw(path) {
        const mine = ++number;
        if (!path) {
            none("No pictures yet.");
            return;
        }
        const paths = path.split("\n").filter((one) => one.trim());
        const { sets } = await dataset.ask("sets");
        const set = paths.length === 1 && sets.find((one) => one.folder === paths[0].trim());
        if (mine !== number) {
            return;
        }
        if (!set) {
            await drawPaths(paths, () => mine === number);
            return;
        }
        const { listing } = await dataset.ask("listing", { set: set.set, ...dataset.forRun() });
        if (mine !== number) {
            return;
        }
        const all = listing.pictures.filter((one) => one.bucket);
        const images = all.slice(0, THUMBNAILS).map((one) => {
            const image = made("img", { alt: one.name });
            dataset.show(image, set.set, one, 256);
            return image;
        });
        const buckets = new Set(all.map((one) => one.bucket.join("×")));
        const repeats = set.repeats ? ` × ${dataset.many(set.repeats, "repeat")}` : "";
        const sizes = buckets.size === 1 ? `one bucket, ${[...buckets][0]}` : dataset.many(buckets.size, "bucket");
        const head = heading(made("b", { className: "blocktrain-cut", textContent: set.name }), choose("Choose…", set.set));
        const uncaptioned = all.filter((one) => one.flags.includes("no caption")).length;
        const parts = [head, thumbnails(images, all.length), line(`${dataset.many(all.length, "picture")}${repeats} · ${sizes}`)];
        if (uncaptioned) {
            const warning = line(`${uncaptioned} ${uncaptioned === 1 ? "has" : "have"} no caption. `, true);
            warning.append(button("Show", "blocktrain-link", () => toPictures(set.set, "no caption")));
            parts.push(warning);
        }
        root.replaceChildren(...parts);
    }

    function look() {
        if (!root?.offsetParent) {
            return;
        }
        const path = field("folders") || field("toml");
        const now = `${path}\n${JSON.stringify(dataset.forRun())}`;
        if (now !== shown) {
            shown = now;
            draw(path).catch((error) => none(error.message, true));
        }
    }

    (blocktrain.components ||= new Map()).set("blocktrain-train-set", (element) => {
        root = element;
        setInterval(look, PAUSE);
    });
    document.addEventListener("blocktrain:place", () => (shown = null)); // captions may have been written meanwhile
})();
