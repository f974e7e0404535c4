// Questions of the place Pictures to the server, in order and one at a time, and the files that are sent to it.
//
// A question is JSON, which gradio's event takes from `question()`; the answer comes as JSON in an attribute. It is asked
// again until its answer is there: the server carries out each number once, and keeps each asking until then
// (ui/dataset_handlers.py).
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});
    const PATIENCE = 180000; // milliseconds for an upload
    const LARGEST = 60 << 20; // bytes of one file
    const UNANSWERED = "The files did not arrive: is the server there? Add them again.";
    const PAGE = Math.random().toString(36).slice(2); // no two pages share a number
    const waiting = []; // {number, text, button, files, resolve, reject}
    let count = 0;
    let stop = () => {}; // ends the asking, or the wait for an upload
    let uploading = false;

    const find = (name, what) => document.querySelector(`${what}#blocktrain_${name}, #blocktrain_${name} ${what}`);

    // The promise of the server's answer; it is rejected with the server's words where it refuses. `button` is the event
    // that carries the question, `files` are uploaded before it.
    function ask(what, values = {}, { button = "dataset_answer_now", files = null } = {}) {
        const number = ++count;
        const text = JSON.stringify({ page: PAGE, number, what, ...values });
        return new Promise((resolve, reject) => {
            waiting.push({ number, text, button, files, resolve, reject });
            if (waiting.length === 1) {
                begin();
            }
        });
    }

    function begin() {
        stop();
        const first = waiting[0];
        if (first?.files) {
            upload(first.files);
        } else if (first) {
            send();
        }
    }

    function send() {
        stop();
        stop = blocktrain.untilAnswered(() => find(waiting[0].button, "button")?.click());
    }

    // gradio's upload takes the files as if they had been chosen in its own field; their names come with the question.
    function upload(files) {
        const given = new DataTransfer();
        files.forEach((file, index) => given.items.add(new File([file], `${index}.bin`)));
        const input = find("dataset_files", "input[type=file]")
            || document.getElementById("blocktrain_dataset_files").parentElement.querySelector("input[type=file]");
        uploading = true;
        input.files = given.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
        const timer = setTimeout(() => fail(UNANSWERED), PATIENCE);
        stop = () => clearTimeout(timer);
    }

    function fail(why) {
        if (uploading) {
            uploading = false;
            waiting.shift().reject(new Error(why));
            begin();
        }
    }

    // gradio 3 says nothing of an upload that was refused. Status 0: nobody answered.
    new PerformanceObserver((list) => {
        const refused = (one) => /\/upload(\?|$)/.test(one.name) && (one.responseStatus === 0 || one.responseStatus >= 400);
        const status = list.getEntries().find(refused)?.responseStatus;
        if (status !== undefined) {
            fail(status ? `The files did not arrive: the server or a proxy refused them (HTTP ${status}).` : UNANSWERED);
        }
    }).observe({ type: "resource" });

    // gradio has the files.
    function uploaded() {
        if (uploading) {
            uploading = false;
            setTimeout(() => send());
        }
    }

    const question = () => waiting[0]?.text ?? "";

    function answered(answer) {
        if (answer.page !== PAGE || answer.number !== waiting[0]?.number) {
            return; // to an earlier asking
        }
        const { resolve, reject } = waiting.shift();
        stop();
        setTimeout(begin); // when gradio has done with this one
        if (answer.error) {
            reject(new Error(answer.error));
        } else {
            resolve(answer);
        }
    }

    const paths = new WeakMap(); // of files in a dropped folder: where they are in it
    const PART_BYTES = 24 << 20;
    const PART_FILES = 32;

    // Parts that a server takes.
    function parts(files) {
        const found = [];
        let bytes = 0;
        for (const file of files) {
            bytes += file.size;
            if (!found.length || found.at(-1).length === PART_FILES || bytes > PART_BYTES) {
                found.push([]);
                bytes = file.size;
            }
            found.at(-1).push(file);
        }
        return found;
    }

    // Adds files to a set; tells of the progress, and returns {added, refused, notices}. After a part that did not arrive
    // the others are not sent.
    async function add(set, files, progress) {
        const size = (file) => `${(file.size / 2 ** 20).toFixed(0)} MB: expected up to ${LARGEST >> 20} MB`;
        const found = { added: [], refused: [], notices: [] };
        found.refused.push(...files.filter((file) => file.size > LARGEST).map((file) => [file.name, size(file)]));
        let done = found.refused.length;
        let why = "";
        for (const part of parts(files.filter((file) => file.size <= LARGEST))) {
            const names = part.map((file) => paths.get(file) || file.webkitRelativePath || file.name);
            try {
                if (!why) {
                    const answer = await ask("add", { set, names }, { button: "dataset_add_now", files: part });
                    found.added.push(...answer.added);
                    found.refused.push(...answer.refused);
                    found.notices = [...new Set([...found.notices, ...answer.notices])];
                }
            } catch (error) {
                why = error.message;
            }
            if (why) {
                found.refused.push(...part.map((file) => [file.name, why]));
            }
            done += part.length;
            progress(done);
        }
        return found;
    }

    (blocktrain.components ||= new Map()).set("blocktrain-dataset-answer", (element) =>
        answered(JSON.parse(element.dataset.json))
    );
    Object.assign(dataset, { ask, add, paths, question, uploaded });
})();
