/** Sets the chosen theme before the page is drawn. */
try {
  const kept = JSON.parse(localStorage.getItem("echox-theme"));
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch {
  // storage is unavailable: use the theme of the system
}
