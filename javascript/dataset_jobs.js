// Jobs on the model that Pictures starts, a mask from a word and the probe of a set: asked about until they end, so that the
// page can be used meanwhile (ui/dataset_jobs.py).
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const PAUSE = 500; // milliseconds between two looks

    const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE));

    // Start a job, and show in `place` how far it is, with a button to cancel it. The promise has its result, null where it
    // was cancelled; it is rejected with the reason where it failed.
    async function job(place, label, what, values) {
        const { made } = blocktrain;
        const bar = made("progress", { max: 1 });
        bar.setAttribute("aria-label", label);
        const text = made("span", { textContent: `${label}: waiting for the model …` });
        const cancel = made("button", { type: "button", className: "blocktrain-btn", textContent: "Cancel" });
        const row = made("div", { className: "blocktrain-dataset-job" }, text, bar, cancel);
        row.setAttribute("role", "status");
        let id = null;
        let cancelled = false;
        cancel.addEventListener("click", () => {
            cancelled = true;
            cancel.disabled = true;
            text.textContent = `${label}: cancelling …`;
            id && dataset.ask("cancel", { job: id });
        });
        place.replaceChildren(row);
        try {
            id = (await dataset.ask(what, values)).job;
            if (cancelled) {
                await dataset.ask("cancel", { job: id });
            }
            for (;;) {
                const answer = await dataset.ask("job", { job: id });
                if (answer.state === "done") {
                    return answer.result;
                }
                if (answer.state === "cancelled") {
                    return null;
                }
                if (answer.state === "failed") {
                    throw new Error(answer.problem);
                }
                if (answer.state === "running" && !cancelled) {
                    bar.value = answer.done || 0;
                    text.textContent = `${label}: ${Math.round(100 * (answer.done || 0))} %`;
                }
                await pause();
            }
        } finally {
            row.remove();
        }
    }

    Object.assign(dataset, { job });
})();
