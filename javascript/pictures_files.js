// Into Preview and out of it: files that are dropped anywhere on the place, and the prompt and settings of a WebUI's txt2img.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const place = () => document.getElementById("blocktrain_place_preview");
    const here = (event) => place()?.offsetParent && event.target.closest?.("#blocktrain_place_preview");

    // --- dropped files ----------------------------------------------------------------------------------------------

    function give(name, file) {
        const input = document.querySelector(`#blocktrain_${name} input[type=file], input[type=file]#blocktrain_${name}`)
            || document.getElementById(`blocktrain_${name}`)?.parentElement.querySelector("input[type=file]");
        if (!input) {
            return false;
        }
        const files = new DataTransfer();
        files.items.add(file);
        input.files = files.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
        return true;
    }

    function say(text) {
        blocktrain.pictures.ask({ do: "refuse", name: text });
    }

    function take(file) {
        const name = file.name.toLowerCase();
        if (name.endsWith(".png")) {
            give("png_file", file);
        } else if (name.endsWith(".txt")) {
            give("preset_file", file);
            blocktrain.openMenu(document.getElementById("blocktrain_menu_presets"), true); // which says what came of it
        } else if (name.endsWith(".safetensors")) {
            blocktrain.pictures.ask({ do: "lora", name: file.name });
        } else {
            say(file.name);
        }
    }

    const files = (event) => Array.from(event.dataTransfer?.types || []).includes("Files");

    document.addEventListener("dragover", (event) => {
        if (files(event) && here(event)) {
            event.preventDefault();
            place().classList.add("blocktrain-is-dropping");
        }
    });
    document.addEventListener("dragleave", (event) => {
        if (!event.relatedTarget || !place()?.contains(event.relatedTarget)) {
            place()?.classList.remove("blocktrain-is-dropping");
        }
    });
    document.addEventListener(
        "drop",
        (event) => {
            place()?.classList.remove("blocktrain-is-dropping");
            if (files(event) && here(event)) {
                event.preventDefault();
                event.stopPropagation(); // the WebUI would take a PNG, too
                const dropped = event.dataTransfer.files;
                if (dropped.length === 1) {
                    take(dropped[0]);
                } else {
                    say(`${dropped.length} files at once`);
                }
            }
        },
        true
    );

    // --- txt2img ----------------------------------------------------------------------------------------------------

    const app = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const field = (id) => app().querySelector(`#txt2img_${id} textarea, #txt2img_${id} input[type=number], #txt2img_${id} input`);
    const numeric = (id) => (field(id) && field(id).value !== "" ? Number(field(id).value) : undefined);

    // The sampler: a menu, or in older WebUIs a row of buttons.
    function sampler() {
        const chosen = app().querySelector("#txt2img_sampling input[type=radio]:checked");
        return chosen ? chosen.value : field("sampling")?.value;
    }

    function fromTxt2img() {
        const values = {
            prompt: field("prompt").value, negative: field("neg_prompt")?.value, sampler: sampler(), steps: numeric("steps"),
            cfg: numeric("cfg_scale"), width: numeric("width"), height: numeric("height"), seed: numeric("seed"),
            scheduler: field("scheduler")?.value, // only to say that it is not taken over
        };
        const weights = app().querySelector("#blocktrain_txt2img_text textarea")?.value; // of the accordion
        blocktrain.pictures.ask({ do: "take", values, weights }); // as JSON, which leaves out what is not there
    }

    function put(target, text) {
        target.value = text;
        target.dispatchEvent(new Event("input", { bubbles: true }));
    }

    // The prompt of the pictures with their LoRAs' tags at its end.
    function toTxt2img() {
        const shown = document.querySelector("#blocktrain_pictures .blocktrain-pictures");
        const values = JSON.parse(shown.dataset.values);
        put(field("prompt"), shown.dataset.prompt);
        if (field("neg_prompt")) {
            put(field("neg_prompt"), values.negative || "");
        }
        blocktrain.showTab(field("prompt"));
    }

    document.addEventListener("click", (event) => {
        if (event.target.closest?.("#blocktrain [data-from-txt2img]")) {
            fromTxt2img();
        } else if (event.target.closest?.("#blocktrain [data-to-txt2img]")) {
            toTxt2img();
        }
    });

    (blocktrain.pageChanged ||= new Set()).add(() => {
        const webui = Boolean(app().querySelector("#txt2img_prompt textarea"));
        for (const button of document.querySelectorAll("#blocktrain :is([data-from-txt2img], [data-to-txt2img])")) {
            if (button.hidden === webui) {
                button.hidden = !webui;
            }
        }
    });
})();
