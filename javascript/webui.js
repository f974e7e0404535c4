// Scripts for the WebUI's own page: the accordion's buttons, and the buttons that send a picture to img2img.
// The server reads and writes the prompt's tags (POST /blocktrain/v1/prompt/...). Not used by the standalone page.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const COPY_TIMEOUT = 30000; // milliseconds for the WebUI to copy a prompt from one tab to another

    function field(id) {
        return gradioApp().querySelector(`#${id} textarea, #${id} input`);
    }

    function put(target, text) {
        target.value = text;
        target.dispatchEvent(new Event("input", { bubbles: true }));
    }

    // Show an error, or a note, below an element, in place of the last one of this id; "" removes it.
    function showError(id, element, text, role = "alert") {
        gradioApp().querySelector(`#${id}`)?.remove();
        if (text) {
            const message = document.createElement("p");
            message.id = id;
            message.className = "blocktrain-webui-error";
            message.setAttribute("role", role);
            message.textContent = text;
            element.after(message);
        }
    }

    async function changedPrompt(path, body) {
        let response;
        try {
            response = await fetch(`./blocktrain/v1/prompt/${path}`, {
                method: "POST",
                headers: { "Content-Type": "application/json" },
                body: JSON.stringify(body),
            });
        } catch {
            throw new Error("the server does not answer");
        }
        const answer = await response.json().catch(() => ({}));
        if (typeof answer.prompt !== "string") {
            throw new Error(answer.detail || `the server answered ${response.status}`);
        }
        return answer.prompt;
    }

    async function write(tab, text) {
        const prompt = field(`${tab}_prompt`);
        const row = gradioApp().querySelector(`#blocktrain_${tab}_write`).parentElement;
        const show = (error) => showError(`blocktrain_${tab}_error`, row, error);
        if (!prompt || !(text || "").trim()) {
            return;
        }
        show("");
        try {
            let sent, written;
            do { // again if something was typed meanwhile
                sent = prompt.value;
                written = await changedPrompt("write-weights", { prompt: sent, weights: text });
            } while (prompt.value !== sent);
            if (written !== sent) {
                put(prompt, written);
            }
        } catch (error) {
            show(`The prompt stays as it is: ${error.message}`);
        }
    }

    // Shows the extension's tab with the LoRAs of the prompt, their weights and the prompt.
    function edit(tab, text) {
        blocktrain.showTab(gradioApp().querySelector("#blocktrain"));
        blocktrain.go?.("preview");
        blocktrain.segment?.("preview", "weights");
        const [prompt, negative] = [`${tab}_prompt`, `${tab}_neg_prompt`].map((id) => field(id)?.value || "");
        const target = field("blocktrain_edited");
        if (target) {
            // the time makes each press another value, which the server is told of
            put(target, JSON.stringify({ prompt, negative, weights: text || "", at: Date.now() }));
        }
    }

    // A preset saved, renamed or deleted in the extension's tab: the accordions' menus read them again.
    let presets = null;
    blocktrain.presetsInWebUI = (names) => {
        const known = names.join("\n");
        if (presets !== null && presets !== known && typeof gradioApp === "function") {
            for (const tab of ["txt2img", "img2img"]) {
                gradioApp().querySelector(`#blocktrain_${tab}_refresh`)?.click();
            }
        }
        presets = known;
    };

    // The WebUI sends the prompt as it was typed: random weights would be drawn again, from another seed.
    async function fixRandom(tab) {
        const typed = field(`${tab}_prompt`).value;
        const parameters = gradioApp().querySelector(`#html_info_${tab}`)?.innerText || "";
        const target = field("img2img_prompt");
        const until = Date.now() + COPY_TIMEOUT;
        const show = (error) =>
            showError("blocktrain_sent_error", gradioApp().querySelector("#img2img_prompt"), error);
        show("");
        if (!parameters.includes("Block weights: ")) {
            return;
        }
        let fixed;
        try {
            fixed = await changedPrompt("fix-random", { prompt: typed, parameters });
        } catch (error) {
            show(`Random block weights of this prompt are not those of the picture: ${error.message}`);
            return;
        }
        if (fixed === typed) {
            return;
        }
        const wait = setInterval(() => {
            if (target.value === typed) { // copied, and not edited since
                put(target, fixed);
            }
            if (target.value === fixed || Date.now() > until) {
                clearInterval(wait);
            }
        }, 100);
    }

    // ADetailer passes a picture's settings on to the scripts in its own list only; tags act in its pass as they are.
    function noteADetailer() {
        const names = opts.ad_script_names;
        const listed = (names ?? "").split(",").some((name) => name.trim() === "blocktrain");
        const left = typeof names === "string" && opts.ad_only_selected_scripts !== false && !listed;
        for (const tab of ["txt2img", "img2img"]) {
            const row = gradioApp().querySelector(`#blocktrain_${tab}_write`)?.parentElement;
            if (row) {
                showError(`blocktrain_${tab}_adetailer`, row, left
                    ? "ADetailer draws without these weights: add blocktrain to its setting “Script names to apply to"
                        + " ADetailer”, or write them into the prompt."
                    : "", "note");
            }
        }
    }

    if (typeof onOptionsChanged === "function") {
        onOptionsChanged(noteADetailer);
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest?.("[id$=_send_to_img2img], [id$=_send_to_inpaint]");
        const tab = button?.id.split("_send_to_")[0];
        if (tab === "txt2img" || tab === "img2img") {
            fixRandom(tab);
        }
    }, true);

    window.blocktrainWebUI = { write, edit };
})();
