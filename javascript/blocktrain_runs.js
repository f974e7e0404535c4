// Polls the Runs tab while it is visible, by clicking its Refresh button. The next request is sent only after the last
// response, so that requests do not pile up on a slow server. Each response says how long to wait before the next.
(() => {
    "use strict";

    const TIMEOUT = 60000; // milliseconds to wait for a response
    let lastRequest = 0;
    let lastBeat = null;

    function ask() {
        const root = typeof gradioApp === "function" ? gradioApp() : document;
        const button = root.querySelector("#blocktrain_runs_tick");
        const place = root.querySelector("#blocktrain_runs_list");
        if (!button || !place || document.hidden || place.offsetParent === null) {
            return;
        }
        const beat = root.querySelector("#blocktrain_runs_beat [data-beat]");
        const now = Date.now();
        const answered = !beat || beat.dataset.beat !== lastBeat;
        if (now - lastRequest < (answered ? Number(beat ? beat.dataset.next : 1500) : TIMEOUT)) {
            return;
        }
        lastBeat = beat ? beat.dataset.beat : null;
        lastRequest = now;
        button.click();
    }

    setInterval(ask, 500);
})();
