// Two things that a page cannot know when a reader opens a chapter elsewhere: Colab starts without
// this book's package, and a JupyterHub is the reader's own (unless _config.yml names one).
const COLAB = "https://colab.research.google.com/github/";
const NO_HUB = "https://hub.invalid/";

function hubOfReader() {
  const answer = prompt(
    "Address of your JupyterHub (it needs nbgitpuller and the book's requirements.txt):",
    localStorage.getItem("hub") || "https://",
  );
  if (answer === null) return null;
  try {
    const { protocol, host, href } = new URL(answer);
    if (!/^https?:$/.test(protocol) || !host) throw new Error();
    localStorage.setItem("hub", href);
    return href.endsWith("/") ? href : `${href}/`;
  } catch {
    alert(`${answer} is no address of a JupyterHub: it begins with https://`);
    return null;
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (link?.href.startsWith(NO_HUB)) {
    const hub = hubOfReader();
    event.preventDefault();
    if (hub) window.open(hub + link.href.slice(NO_HUB.length));
  } else if (link?.href.startsWith(COLAB)) {
    const [owner, name, , branch] = link.href.slice(COLAB.length).split("/");
    const repository = `https://github.com/${owner}/${name}`;
    const answer = prompt(
      "Colab starts without this book's package. Copy this line and run it there as a first cell:",
      `!git clone -q --depth 1 -b ${branch} ${repository} book && cp -r book/* book/chapters/* . ` +
        "&& pip install -q myst-nb",
    );
    if (answer === null) event.preventDefault();
  }
});
