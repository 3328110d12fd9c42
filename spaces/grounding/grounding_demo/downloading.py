"""Text as a download of the browser, without a file on the server."""

DOWNLOAD = """(rows) => {
  if (!rows) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([rows], { type: "application/jsonl" }));
  link.download = "corrections.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""

__all__ = ["DOWNLOAD"]
