"""The page in Streamlit's own headless runner, over frames that are handed in."""

import json
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from hybridlab.dashboard import frontier_page
from hybridlab.dashboard.frontier_page import EFFICIENCY_FIRST, QUALITY_FIRST, prefer
from streamlit.testing.v1 import AppTest

NASTY = "<b>bold</b> $x^2$ *it* :red[r] `c` [l](http://example.org) :smile: -> <script>1</script>"


def page(frames):
    """The script that AppTest runs: the page over a dict of frames by sweep."""
    from hybridlab.dashboard import frontier_page

    frontier_page.show(lambda: list(frames), frames.__getitem__)


def run(frames: dict[str, pd.DataFrame], **address: str) -> AppTest:
    """The page after its first run at an address."""
    app = AppTest.from_function(page, kwargs={"frames": frames}, default_timeout=30)
    for key, value in address.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    return app


def figures(app: AppTest) -> list[dict]:
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def address(app: AppTest) -> dict[str, str]:
    return {key: value if isinstance(value, str) else value[0] for key, value in app.query_params.items()}


def test_an_empty_store_says_how_to_fill_it():
    app = run({})
    assert "hybridlab sweep" in app.info[0].value
    assert not app.selectbox
    assert not figures(app)


def test_the_real_script_over_no_store_says_so_and_makes_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDLAB_RUNS", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    st.cache_data.clear()
    app = AppTest.from_file(str(Path(frontier_page.__file__).with_name("app.py")), default_timeout=60).run()
    assert not app.exception
    assert "hybridlab sweep" in app.info[0].value
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_trials_says_so(frame):
    app = run({"new": frame.head(0)})
    assert "no trial yet" in app.info[0].value
    assert not figures(app)


def test_a_full_sweep_is_drawn_counted_and_listed(frame):
    app = run({"quickstart": frame}, task="recall", efficiency="efficiency/state_bytes/1024")
    chart, layers = figures(app)
    assert [trace["name"] for trace in chart["data"]] == ["Dominated", "Frontier", "On the frontier"]
    assert chart["layout"]["xaxis"]["title"]["text"].startswith("Decoding state at 1,024 tokens")
    assert {"attn", "mamba2", "mlp"} <= {trace["name"] for trace in layers["data"]}
    assert any(caption.value.startswith("24 of 27 trials shown") for caption in app.caption)
    models, trials, excluded = (table.value for table in app.dataframe)
    assert (len(models), len(trials), len(excluded)) == (9, 27, 3)
    assert "loss is NaN at step 412" in set(excluded["reason"])


def test_every_table_can_be_taken_away_as_csv_and_as_json(frame):
    app = run({"quickstart": frame}, task="recall")
    labels = [button.proto.label for button in app.get("download_button")]
    assert labels == [
        f"Download {kind} as {form}" for kind in ("models", "trials", "excluded") for form in ("CSV", "JSON")
    ]


def test_one_trial_is_drawn_and_no_comparison_is_claimed(trial):
    app = run({"one": pd.DataFrame([trial("attention")])})
    assert len(figures(app)) == 2
    assert "One model alone" in app.info[0].value


def test_where_every_trial_failed_the_reasons_are_listed(trial):
    rows = [trial(name, status="failed", reason=f"no memory for {name}") for name in ("attention", "mamba")]
    app = run({"bad": pd.DataFrame(rows)})
    assert "None of the 2 trials" in app.warning[0].value
    assert not figures(app)
    assert set(app.dataframe[0].value["reason"]) == {"no memory for attention", "no memory for mamba"}


def test_axes_that_no_trial_has_both_of_draw_nothing(trial):
    rows = [
        trial("attention", **{"test/accuracy": None}),
        trial("mamba", **{"efficiency/state_bytes/1024": float("nan")}),
    ]
    app = run({"gaps": pd.DataFrame(rows)}, quality="test/accuracy", efficiency="efficiency/state_bytes/1024")
    assert "Choose another pair" in app.warning[0].value
    assert not figures(app)
    assert len(app.dataframe[1].value) == 2


def test_an_unknown_sweep_in_the_address_is_named_and_nothing_is_shown_in_its_place(frame):
    app = run({"quickstart": frame}, sweep="quikstart")
    assert "` quikstart `" in app.error[0].value
    assert app.selectbox(key="sweep").value is None
    assert not figures(app)
    app.selectbox(key="sweep").set_value("quickstart").run()
    assert not app.error
    assert figures(app)
    assert address(app)["sweep"] == "quickstart"


def test_an_unknown_metric_in_the_address_is_told_and_replaced(frame):
    app = run({"quickstart": frame}, quality="test/beauty")
    assert "test/beauty" in app.warning[0].value
    assert address(app)["quality"] == app.selectbox(key="quality").value == "test/accuracy"


def test_a_store_that_does_not_answer_is_one_line():
    def down():
        from hybridlab.architectures import InvalidInput
        from hybridlab.dashboard import frontier_page

        def refuse(*_):
            raise InvalidInput("MLflow at http://localhost:1 does not answer: refused")

        frontier_page.show(refuse, refuse)

    app = AppTest.from_function(down).run()
    assert not app.exception
    assert "does not answer: refused" in app.error[0].value


def test_the_address_holds_the_whole_selection_and_opens_it_again(frame):
    frames = {"first": frame, "second": frame}
    app = run(frames)
    app.selectbox(key="sweep").set_value("second").run()
    app.selectbox(key="task").set_value("recall").run()
    app.selectbox(key="quality").set_value("test/loss").run()
    app.selectbox(key="efficiency").set_value("efficiency/decode_tokens_per_second/1024").run()
    app.segmented_control(key="efficiency_scale").set_value("linear").run()
    chosen = {
        "sweep": "second",
        "task": "recall",
        "quality": "test/loss",
        "efficiency": "efficiency/decode_tokens_per_second/1024",
        "quality_scale": "auto",
        "efficiency_scale": "linear",
    }
    assert address(app) == chosen
    again = run(frames, **chosen)
    assert address(again) == chosen
    assert figures(again) == figures(app)
    assert figures(again)[0]["layout"]["xaxis"]["type"] == "linear"


@pytest.mark.parametrize("where", ["name", "task", "sweep", "reason"])
def test_what_a_store_holds_is_never_markup(trial, where):
    rows = [trial("attention"), trial("mamba"), trial("linear", status="failed", reason="why")]
    frame = pd.DataFrame([row | ({where: NASTY} if where != "sweep" else {}) for row in rows])
    app = run({NASTY if where == "sweep" else "quickstart": frame}, quality="test/" + NASTY)
    assert not any(text.proto.allow_html for text in [*app.markdown, *app.caption])
    for figure in figures(app):
        assert "<script>" not in json.dumps(figure).replace("\\u003c", "<")
    assert f"`` test/{NASTY} ``" in app.warning[0].value


def test_the_axes_first_shown_are_a_whole_metric_and_the_longest_length():
    columns = ["test/accuracy", "test/accuracy/pairs_8", "efficiency/state_bytes/128", "efficiency/state_bytes/2048"]
    assert prefer(columns, QUALITY_FIRST) == "test/accuracy"
    assert prefer(columns, EFFICIENCY_FIRST) == "efficiency/state_bytes/2048"
    assert prefer(["lm_eval/a", "lm_eval/b"], QUALITY_FIRST) == "lm_eval/a"
