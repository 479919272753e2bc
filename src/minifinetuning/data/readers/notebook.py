"""The text of a Jupyter notebook: its cells."""

from minifinetuning.data.readers.json_rows import json_value
from minifinetuning.data.readers.markdown import markdown_text
from minifinetuning.data.readers.unreadable import UnreadableError


def notebook_text(content: str, name: str) -> str:
    """The cells of text and code in their order, a blank line between them; no output.

    Raises UnreadableError where it is no notebook, InputError where it is no JSON.
    """
    notebook = json_value(content, name)
    # Before version 4 the cells were those of worksheets.
    try:
        sheets = notebook.get("worksheets", [notebook])
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        texts = [_cell_text(cell) for cell in cells]
    except (KeyError, TypeError, AttributeError):
        raise UnreadableError("no notebook: it holds no cells") from None
    return "\n\n".join(text for text in texts if text.strip())


def _cell_text(cell: dict[str, object]) -> str:
    source = cell.get("source", cell.get("input", ""))
    lines = source if isinstance(source, list) else [source]
    text = "".join(str(line) for line in lines)
    return markdown_text(text) if cell.get("cell_type") == "markdown" else text
