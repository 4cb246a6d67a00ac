"""The verbs from end to end, on the made-up data set, through the function that the installed command calls."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import recsys_vae
from recsys_vae.cli.config import compose_config, name_runs
from recsys_vae.cli.main import main
from recsys_vae.cli.recommend import parse_items
from recsys_vae.exports import read_vectors

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = ["dataset=tiny", "model.latent_dim=4", "model.hidden_dims=[8]", "trainer.tensorboard=false"]
METRICS = ["evaluation.metrics=[ndcg@10,recall@5]", "trainer.monitor=ndcg@10"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("runs") / "vae")
    assert main(["train", *SMALL, *METRICS, "trainer.max_epochs=8", f"run={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def ease_run(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("runs") / "ease")
    assert main(["train", "dataset=tiny", "model=ease", METRICS[0], f"run={path}"]) == 0
    return path


def test_same_seed_same_metrics(run, tmp_path) -> None:
    again = str(tmp_path / "again")
    assert main(["train", *SMALL, *METRICS, "trainer.max_epochs=8", f"run={again}"]) == 0
    first, second = (json.loads((tmp_path / path / "metrics.json").read_text()) for path in (run, again))
    assert first["test"] == second["test"]
    assert first["validation"] == second["validation"]


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_evaluate_again_gives_the_recorded_metrics(run, tmp_path, batch_size) -> None:
    output = tmp_path / "metrics.json"
    arguments = [METRICS[0], f"evaluation.batch_size={batch_size}", f"output={output}"]
    assert main(["evaluate", f"run={run}", *arguments]) == 0
    recorded = json.loads((tmp_path / run / "metrics.json").read_text())["test"]
    for name, value in json.loads(output.read_text())["test"].items():
        assert value["mean"] == pytest.approx(recorded[name]["mean"], abs=1e-6)


def test_inner_product_search_over_exported_vectors_gives_the_recommendations(run, tmp_path) -> None:
    for what in ("users", "items"):
        arguments = [f"what={what}", "space=retrieval", f"output={tmp_path / what}.parquet"]
        assert main(["export", f"run={run}", *arguments]) == 0
    user_ids, users = read_vectors(tmp_path / "users.parquet")
    item_ids, items = read_vectors(tmp_path / "items.parquet")
    recommender = recsys_vae.load(run)
    for row in range(0, len(user_ids), 11):
        user = user_ids[row]
        scores = items["vector"] @ users["vector"][row]
        scores[recommender.history_of_user(user).indices] = -np.inf
        best = item_ids[np.argsort(-scores, kind="stable")[:5]]
        assert list(recommender.recommend_user(user, k=5)["item_id"]) == list(best)


def test_taste_vectors_have_mean_and_standard_deviation(run, tmp_path) -> None:
    assert main(["export", f"run={run}", f"output={tmp_path / 'users.npz'}"]) == 0
    ids, vectors = read_vectors(tmp_path / "users.npz")
    assert vectors["mean"].shape == vectors["std"].shape == (len(ids), 4)
    assert (vectors["std"] > 0).all()


def test_a_file_of_new_users(run, tmp_path) -> None:
    catalogue = recsys_vae.load(run).catalogue
    histories = pd.DataFrame(
        {"user_id": ["a", "a", "b"], "item_id": [*catalogue.item_ids[:2], "no such item"]}
    )
    histories.to_parquet(tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    assert (
        main(["recommend", f"run={run}", f"input={tmp_path / 'in.parquet'}", f"output={output}", "k=3"]) == 0
    )
    table = pd.read_parquet(output)
    assert list(table["user_id"]) == ["a"] * 3 + ["b"] * 3
    assert not set(table["item_id"][:3]) & set(catalogue.item_ids[:2])
    popular = catalogue.item_ids[np.argsort(-catalogue.item_counts, kind="stable")[:3]]
    assert list(table["item_id"][3:]) == list(popular)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_recommendations_to_one_user_go_to_a_file(run, tmp_path, suffix) -> None:
    recommender = recsys_vae.load(run)
    user = recommender.known_users[0][0]
    output = tmp_path / f"out{suffix}"
    assert main(["recommend", f"run={run}", f"user={user}", "k=3", f"output={output}"]) == 0
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert list(table["item_id"]) == list(recommender.recommend_user(user, k=3)["item_id"])
    assert list(table["rank"]) == [1, 2, 3]
    assert list(tmp_path.iterdir()) == [output]


RATED = [
    "dataset=tiny",
    "model=popularity",
    "filters.weights=true",
    "filters.rating_threshold=null",
    METRICS[0],
]


@pytest.mark.parametrize(
    "estimate", ["maximum_likelihood", "normal_inverse_gamma", "beta_binomial", "tweedie"]
)
def test_what_is_rated_best(tmp_path, estimate, capsys) -> None:
    run = tmp_path / "rated"
    options = [f"model.estimate={estimate}", "model.rank_by=lower"]
    assert main(["train", *RATED, *options, f"run={run}"]) == 0
    assert main(["recommend", f"run={run}", "top_rated=true", "k=4", f"output={tmp_path / 'top.csv'}"]) == 0
    top = pd.read_csv(tmp_path / "top.csv")
    assert list(top.columns) == ["rank", "item_id", "title", "mean", "low", "high", "ratings"]
    recommender = recsys_vae.load(run)
    low = recommender.model.low.numpy()
    best = np.argsort(-low, kind="stable")[:4]
    assert list(top["item_id"]) == list(recommender.catalogue.item_ids[best])
    assert top["low"].tolist() == pytest.approx(low[best].tolist())
    assert list(top["ratings"]) == list(recommender.catalogue.item_counts[best])
    capsys.readouterr()
    assert main(["recommend", f"run={run}", "top_rated=true", "k=4"]) == 0
    assert "low" in capsys.readouterr().out
    # Nobody in particular is recommended the same.
    assert list(recommender.recommend(["no such item"], k=4)["item_id"]) == list(top["item_id"])


def test_ratings_that_are_not_there_are_asked_for_before_anything_is_written(tmp_path, capsys) -> None:
    run = tmp_path / "rated"
    arguments = ["train", "dataset=tiny", "model=popularity", "model.estimate=tweedie", f"run={run}"]
    assert main(arguments) == 2
    assert "filters.weights=true filters.rating_threshold=null" in capsys.readouterr().err
    assert not run.exists()
    assert main(["train", "dataset=tiny", "model=popularity", METRICS[0], f"run={run}"]) == 0
    assert main(["recommend", f"run={run}", "top_rated=true"]) == 2
    assert "for intervals, came 'count'" in capsys.readouterr().err


def test_compare_two_models_on_one_split(run, ease_run, tmp_path) -> None:
    output = tmp_path / "table.csv"
    assert main(["compare", run, ease_run, "metrics=[ndcg@10]", f"output={output}"]) == 0
    assert list(pd.read_csv(output)["metric"]) == ["ndcg@10"]


def test_prepare_and_help(capsys) -> None:
    assert main(["prepare", "dataset=tiny"]) == 0
    assert "split sha256" in capsys.readouterr().out
    for verb in ("prepare", "train", "evaluate", "recommend", "export", "compare"):
        assert main([verb, "--help"]) == 0
        assert f"recsys-vae {verb}" in capsys.readouterr().out


def test_help_shows_the_comments_and_the_options_of_a_choice(capsys) -> None:
    assert main(["train", "--help", "model=ease"]) == 0
    told = capsys.readouterr().out
    assert "# of the split, the initial weights" in told
    assert "l2: 500.0             # the paper's lambda" in told
    assert "max_epochs" not in told
    assert main(["train", "dataset=table", "--help"]) == 0
    told = capsys.readouterr().out
    assert "  rating: null      # column of the ratings" in told
    assert "max_epochs: 40" in told


def test_the_read_columns_can_be_switched_off(tmp_path) -> None:
    path = tmp_path / "r.csv"
    rows = (f"{user},{item},good,noon" for user in range(20) for item in range(8))
    path.write_text("\n".join(["user,item,rating,timestamp", *rows]))
    reading = ["dataset=table", f"dataset.path={path}", "filters.rating_threshold=null"]
    assert main(["prepare", *reading, "dataset.rating=false", "dataset.timestamp=False"]) == 0
    assert main(["prepare", *reading, "dataset.rating=false"]) == 2


VERBATIM = [
    "${oc.env:HOME}10",
    "a${",
    r"\${x}",
    r"a\\${x}'\'",
    r"C:\new\runs",
    r"\\server\share",
    "end\\",
    "'",
    "007",
    "a,b",
    "[x]",
]


@pytest.mark.parametrize("text", VERBATIM)
def test_names_are_taken_as_typed(text) -> None:
    config = compose_config("recommend", ["run=x", f"user={text}", f"items={text}"])
    assert config.user == config["items"] == text
    assert list(compose_config("compare", name_runs([text, "x y"])).runs) == [text, "x y"]
    if "${" not in text:
        assert compose_config("train", [f"dataset.source={text}"]).dataset.source == text


@pytest.mark.parametrize(
    ("text", "items"),
    [
        (
            "['Heat (1995)', 'American President, The (1995)']",
            ["Heat (1995)", "American President, The (1995)"],
        ),
        ("""["Schindler's List", 'C, D', 7]""", ["Schindler's List", "C, D", 7]),
        ('["A, B", 1152921504606846978]', ["A, B", 1152921504606846978]),
        ("[Schindler's List (1993), 007]", ["Schindler's List (1993)", "007"]),
        ("Heat, Casino", ["Heat", "Casino"]),
        ("[REC] (2007)", ["[REC] (2007)"]),
    ],
)
def test_lists_of_items(text, items) -> None:
    assert parse_items(text) == items


@pytest.mark.parametrize("suffix", [".tsv", ".csv.gz", ".zip"])
def test_a_file_of_new_users_in_any_format_of_tables(run, tmp_path, suffix) -> None:
    items = recsys_vae.load(run).catalogue.item_ids[:2]
    path, output = tmp_path / f"in{suffix}", tmp_path / "out.parquet"
    histories = pd.DataFrame({"user_id": ["a", "a"], "item_id": items})
    options = {"compression": {"method": "zip", "archive_name": "in.csv"}} if suffix == ".zip" else {}
    histories.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",", **options)
    assert main(["recommend", f"run={run}", f"input={path}", f"output={output}", "k=3"]) == 0
    table = pd.read_parquet(output)
    assert list(table["user_id"]) == ["a"] * 3
    assert not set(table["item_id"]) & set(items)
