"""The app's frame: menu and atlas picker in the sidebar, one page, the footer with provenance.

    streamlit run app/main.py

1. *Path.* `streamlit run` puts only this folder on the path; modules are imported as `atlas.charts.look`.
2. *Choose.* The sidebar holds the menu, the atlas in view and the tray.
3. *Page.* Each page is a folder with a `page.py`; an `AtlasError` becomes an error box on it.
4. *Footer.* What the atlas was made from.

`streamlit run` imports this file once, to serve its `app`; then it runs the file for every page. Only the
Lab and Compare's prompts import torch, when they are used.
"""

import sys
from pathlib import Path

import streamlit as st
from streamlit.starlette import App

HERE = Path(__file__).resolve().parent
_ROOT = str(HERE.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from app.shared import address, document, layout, links, lists, resources, titles, tray, visitors  # noqa: E402


def main() -> None:
    pages = [
        st.Page("home/page.py", title="Home", icon=":material/home:", default=True),
        st.Page("search/page.py", title="Search", icon=":material/search:", url_path="search"),
        st.Page("fact/page.py", title="Fact", icon=":material/lightbulb:", url_path="fact"),
        st.Page("relation/page.py", title="Relation", icon=":material/category:", url_path="relation"),
        st.Page("neuron/page.py", title="Neuron", icon=":material/scatter_plot:", url_path="neuron"),
        st.Page("lab/page.py", title="Lab", icon=":material/science:", url_path="lab"),
        st.Page("compare/page.py", title="Compare", icon=":material/compare_arrows:", url_path="compare"),
        st.Page("planted/page.py", title="Leaderboard", icon=":material/leaderboard:", url_path="planted"),
        st.Page("evidence/page.py", title="Evidence", icon=":material/balance:", url_path="evidence"),
        st.Page("sql/page.py", title="SQL", icon=":material/database:", url_path="sql"),
        st.Page("atlases/page.py", title="Atlases", icon=":material/folder_open:", url_path="atlases"),
    ]
    st.set_page_config(page_icon=str(HERE / "static/icon.png"), layout="wide")
    if str(st.get_option("client.showErrorDetails")).lower() == "false":
        # Streamlit Community Cloud sets "false", which still shows visitors the stack trace.
        st.set_option("client.showErrorDetails", "none")
    page = st.navigation(pages, position="hidden")
    titles.show_title(page.url_path)

    with visitors.asking(), layout.errors_as_sentences():
        # A wrong limits file stops every page, so that none runs without limits.
        visitors.take_place()

        with visitors.drawing():
            with st.sidebar:
                menu = st.container()
                layout.choose_atlas()
                with menu:
                    links.menu(pages)
                lists.open_link()
                tray.show_tray()
                lists.show_lists()
                layout.show_shortcuts()

            with layout.errors_as_sentences(), address.followed(page.url_path):
                page.run()
                titles.show_title(page.url_path)  # of the address that the page wrote

            layout.footer()

    resources.spare_the_collector()


if __name__ == "__main__":
    main()
else:
    app = App(HERE / "main.py", routes=document.ROUTES, lifespan=document.in_a_browser)
