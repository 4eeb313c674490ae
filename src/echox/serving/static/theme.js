/** Loaded before the page is drawn, so that a chosen theme does not flash. */
try {
  const kept = JSON.parse(localStorage.getItem("echox-theme"));
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch {
  // the browser keeps nothing: as the system
}
