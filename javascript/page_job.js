// The run in training, in every place of the page: asks for the header's chip while the page is shown, opens the run on a
// click, shows progress in the window's title, and notifies about the end of a run if the user allowed it.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const TIMEOUT = 60000; // milliseconds to wait for an answer
    const UNSEEN = 5000; // milliseconds between two requests while another window is in front
    const GOING = ["preparing", "training", "stopping", "pausing", "waiting", "paused"];

    const root = () => document.getElementById("blocktrain");
    const chip = () => document.querySelector("#blocktrain_job_chip .blocktrain-chip-job");
    const shown = () => Boolean(root() && root().offsetParent !== null);

    // --- requests -----------------------------------------------------------------------------------------------------

    let lastRequest = 0;
    let lastBeat = null;

    function ask() {
        const button = document.querySelector("button#blocktrain_job_tick");
        const unseen = document.hidden;
        if (!button || !shown() || (unseen && !(allowed() && chip()?.dataset.state === "training"))) {
            return;
        }
        const beat = document.querySelector("#blocktrain_job_beat [data-beat]");
        const answered = !beat || beat.dataset.beat !== lastBeat;
        const wait = Math.max(Number(beat?.dataset.next || 1000), unseen ? UNSEEN : 0);
        if (Date.now() - lastRequest < (answered ? wait : TIMEOUT)) {
            return;
        }
        lastBeat = beat?.dataset.beat ?? null;
        lastRequest = Date.now();
        button.click();
    }

    setInterval(ask, 500);
    document.addEventListener("blocktrain:back", () => (lastBeat = null)); // what was asked was lost with the server

    // --- the chip -----------------------------------------------------------------------------------------------------

    let state = null; // of the run that the chip showed last: its name and state
    const seen = new Set(); // ended runs whose chip was clicked

    (blocktrain.components ||= new Map()).set("blocktrain-chip-job", (element) => {
        const { run, state: now } = element.dataset;
        const ended = !GOING.includes(now);
        element.hidden = seen.has(run) && ended;
        element.addEventListener("click", () => {
            if (ended) {
                seen.add(run);
                element.hidden = true;
            }
            blocktrain.go?.("runs");
            blocktrain.runs?.choose?.(run);
        });
        if (state?.run === run && state.now !== now && ended) {
            notify(element.querySelector("b").textContent, now);
        }
        if (!ended) {
            seen.delete(run);
        }
        state = { run, now };
    });

    // --- the title ----------------------------------------------------------------------------------------------------

    let title = null; // the page's own, while another is shown
    let ours = null;

    function progress() {
        const bar = [...document.querySelectorAll("#blocktrain .blocktrain-bar progress")].find(
            (candidate) => candidate.closest(".blocktrain-progress").dataset.state === undefined
        );
        if (bar) {
            const place = bar.closest(".blocktrain-bar").id.replace("blocktrain_bar_", "");
            const tab = document.getElementById(`blocktrain_tab_${place}`);
            return `${Math.round(bar.value)} % ${tab ? tab.textContent.trim() : ""}`.trim();
        }
        const run = chip();
        return run && run.dataset.state === "training"
            ? `${Math.floor(Number(run.dataset.share) * 100)} % ${run.querySelector("b").textContent}`
            : "";
    }

    function showTitle() {
        const text = shown() ? progress() : "";
        if (ours !== null && document.title !== ours) {
            title = ours = null; // the host has set another
        }
        if (text) {
            title ??= document.title;
            ours = `${text} · ${title}`;
            if (document.title !== ours) {
                document.title = ours;
            }
        } else if (ours !== null) {
            document.title = title;
            title = ours = null;
        }
    }

    setInterval(showTitle, 500);

    // --- notifications ------------------------------------------------------------------------------------------------

    function allowed() {
        return typeof Notification === "function" && Notification.permission === "granted";
    }

    function notify(run, how) {
        if (allowed() && document.hidden) {
            new Notification(`${run} ${how}`, { tag: `blocktrain ${run}` }).onclick = () => window.focus();
        }
    }
})();
