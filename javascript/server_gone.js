// Shows a banner when the server does not respond: what to do, and when it is back. gradio's own message, "Connection
// errored out", says neither. Polling starts with gradio's first message, and ends when the server responds: then the event
// `blocktrain:back` tells those whose question or answer was lost. That may be at once, where only the connection broke.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const POLL_INTERVAL = 2000; // milliseconds
    const BACK_SHOWN = 6000; // milliseconds for which "The server is back" is shown
    const GONE =
        "The server does not respond. Start it again: this page will reconnect and keep its settings. " +
        "A run in training can be resumed from its last save.";
    const BROKEN = /connection errored out/i; // of both gradios; others are a handler's own error
    const ERRORS = ".toast-body.error, .toast-wrap .error";
    const handled = new WeakSet(); // gradio's messages that were handled
    let polling = false;

    async function responds() {
        try {
            return (await fetch(location.pathname, { method: "HEAD", cache: "no-store" })).status < 500;
        } catch {
            return false;
        }
    }

    function banner(text, gone) {
        const tab = document.getElementById("blocktrain");
        let shown = document.getElementById("blocktrain_server_gone");
        if (!shown) {
            shown = document.createElement("p");
            shown.id = "blocktrain_server_gone";
            shown.setAttribute("role", "alert");
            tab.prepend(shown);
        }
        shown.classList.toggle("blocktrain-gone", gone);
        shown.textContent = text;
        return shown;
    }

    const back = () => document.dispatchEvent(new CustomEvent("blocktrain:back"));

    async function check(broken) {
        if (polling) {
            return;
        }
        if (await responds()) {
            broken && back();
            return;
        }
        polling = true;
        banner(GONE, true);
        while (!(await responds())) {
            await new Promise((wake) => setTimeout(wake, POLL_INTERVAL));
        }
        polling = false;
        const shown = banner("The server is back.", false);
        back();
        setTimeout(() => polling || shown.remove(), BACK_SHOWN);
    }

    (blocktrain.pageChanged ||= new Set()).add(() => {
        for (const message of document.querySelectorAll(ERRORS)) {
            if (!handled.has(message) && document.getElementById("blocktrain")) {
                handled.add(message);
                check(BROKEN.test(message.textContent));
            }
        }
    });
})();
