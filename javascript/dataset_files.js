// Pictures and captions that are brought into a set: chosen as files or as a folder, or dropped anywhere on the place Pictures.
// Without a set they make a new one, whose name is asked for in the page.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const MOST = 5000; // files at once
    const KINDS = /\.(png|jpe?g|webp|bmp|avif|jxl|gif|tiff?|txt|caption)$/i;
    const SHOWN = 3; // refused files that are named
    const place = () => document.getElementById("blocktrain_place_pictures");

    const made = (...given) => blocktrain.made(...given);

    // Let a person choose several files, or a folder.
    function chooseFiles(folder) {
        const input = made("input", { type: "file", multiple: true, hidden: true });
        input.webkitdirectory = folder;
        input.dataset.datasetFiles = "";
        if (!folder) {
            input.accept = "image/*,.txt,.caption";
        }
        input.addEventListener("change", () => {
            input.remove();
            take([...input.files]);
        });
        input.addEventListener("cancel", () => input.remove());
        document.body.append(input); // so that it is not collected while the dialog is open
        input.click();
    }

    // --- dropped files ----------------------------------------------------------------------------------------------

    // All files of a dropped folder; `entry` is of the File and Directory Entries API.
    async function filesOf(entry) {
        if (entry.isFile) {
            const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
            dataset.paths.set(file, entry.fullPath.replace(/^\//, ""));
            return [file];
        }
        const reader = entry.createReader();
        const found = [];
        for (;;) {
            const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
            if (!part.length || found.length > MOST) {
                return found;
            }
            for (const inner of part) {
                found.push(...(await filesOf(inner)));
            }
        }
    }

    async function dropped(data) {
        const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
        const files = [...data.files]; // before the first wait: afterwards they are gone
        const folder = entries.find((entry) => entry.isDirectory);
        if (!folder) {
            return take(files);
        }
        const found = [];
        for (const entry of entries) {
            found.push(...(await filesOf(entry)));
        }
        return take(found, folder.name);
    }

    const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
    const here = (event) => place()?.offsetParent && event.target.closest?.("#blocktrain_place_pictures");
    const mark = (on) => place()?.classList.toggle("blocktrain-is-dropping", on);

    document.addEventListener("dragover", (event) => {
        if (hasFiles(event) && here(event)) {
            event.preventDefault();
            mark(true);
        }
    });
    document.addEventListener("dragleave", (event) => {
        if (!event.relatedTarget || !place()?.contains(event.relatedTarget)) {
            mark(false);
        }
    });
    document.addEventListener(
        "drop",
        (event) => {
            mark(false);
            if (hasFiles(event) && here(event)) {
                event.preventDefault();
                event.stopPropagation(); // the WebUI would take a PNG, too
                dataset.attempt(() => dropped(event.dataTransfer));
            }
        },
        true
    );

    // --- into a set -------------------------------------------------------------------------------------------------

    // A name for a new set from its files: the folder they came in, without the repeats of sd-scripts.
    function suggested(files, folder) {
        const from = folder || files[0]?.webkitRelativePath?.split("/")[0] || "";
        return from.replace(/^\d+_/, "").replace(/[<>:"/\\|?*]/g, " ").trim();
    }

    // Ask for the name of a new set; an error stands in the dialog.
    function named(count, suggestion) {
        const input = made("input", { type: "text", className: "blocktrain-in", name: "name", value: suggestion, placeholder: "Name, such as robot", autocomplete: "off" });
        const label = made("label", { className: "blocktrain-f" }, made("span", { textContent: "Name of the new set" }), input);
        setTimeout(() => input.focus());
        return dataset.dialog("New set", {
            about: `${dataset.many(count, "file")} for it.`,
            body: [label],
            go: "Make and add",
            keep: true,
            run: () => dataset.createSet(input.value),
        });
    }

    async function take(files, folder = "") {
        const good = files.filter((file) => KINDS.test(file.name) && !file.name.startsWith("."));
        const other = files.filter((file) => !good.includes(file)).map((file) => [file.name, "expected a picture or its caption (.txt, .caption)"]);
        if (!good.length) {
            dataset.say(files.length ? refusal(other) : "There are no files in it.", "bad");
            return;
        }
        if (good.length > MOST) {
            dataset.say(`${good.length} files: expected up to ${MOST} at once`, "bad");
            return;
        }
        const set = dataset.openSet();
        const readOnly = set && set.kind !== "own";
        const into = set && !readOnly ? set.set : (await named(good.length, suggested(good, folder)))?.set;
        if (into) {
            await dataset.attempt(() => add(into, good, other));
        }
    }

    const refusal = (refused) => {
        const reasons = new Map();
        for (const [name, why] of refused) {
            reasons.set(why, [...(reasons.get(why) || []), name]);
        }
        const list = (all, between) => `${all.slice(0, SHOWN).join(between)}${all.length > SHOWN ? `${between}…` : ""}`;
        const lines = [...reasons].map(([why, names]) => (why.startsWith(names[0]) ? why : `${list(names, ", ")}: ${why}`));
        return `${dataset.many(refused.length, "file")} not taken: ${list(lines, "; ")}`;
    };

    async function add(set, files, other) {
        const count = dataset.many(files.length, "file");
        dataset.say(`Adding ${count} …`, "busy");
        const found = await dataset.add(set, files, (done) => dataset.say(`Adding ${done} of ${count} …`, "busy"));
        await dataset.loadSets();
        await dataset.open(set);
        const refused = [...found.refused, ...other];
        const added = `${dataset.many(found.added.length, "file")} added.`;
        const said = [added, ...(found.notices.length ? [`${found.notices.join("; ")}.`] : []), ...(refused.length ? [refusal(refused)] : [])];
        dataset.say(said.join(" "), refused.length ? "bad" : "note");
    }

    Object.assign(dataset, { chooseFiles, addFiles: take });
})();
