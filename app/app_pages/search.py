"""search"""

import streamlit as st
from app import layout

atlas = layout.current_atlas()
st.title("search")
