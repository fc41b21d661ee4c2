"""The page in a real browser against a real server: chat, the prompt's evolution, votes, why, forgetting, hostile text.

Needs the system's Chromium: skipped unless PROMPTAILOR_REQUIRE_SERVICES=1, which `.ci/run` sets. Screenshots are kept
where PROMPTAILOR_SCREENSHOTS says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

if os.environ.get("PROMPTAILOR_REQUIRE_SERVICES") != "1":
    pytest.skip("the page's tests need a browser: set PROMPTAILOR_REQUIRE_SERVICES=1", allow_module_level=True)

from playwright.sync_api import Browser, BrowserContext, Page, Route, ViewportSize, expect, sync_playwright

from promptailor.app.run_folder import EMBEDDINGS, POLICY
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.policies.checkpoint import PolicyManifest, save_policy
from tests.integration.servers import free_port, running, script

pytestmark = pytest.mark.slow

N_STEPS = 3
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>"\'><svg/onload=window.pwned=1>'
DESKTOP, PHONE = ViewportSize(width=1280, height=860), ViewportSize(width=390, height=844)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A team of agents that has learned nothing, so that drawn prompts differ from step to step."""
    import numpy as np

    from promptailor.policies.actor_critic import PolicyConfig, ReinforcedPolicy
    from promptailor.policies.embeddings import ItemEmbeddings

    folder = tmp_path_factory.mktemp("policy")
    workspace = Workspace(settings=Settings(), dataset_name="planted", model="planted:1")
    items = list(workspace.dataset.items)
    embeddings = ItemEmbeddings.fit(
        items,
        np.random.default_rng(0).standard_normal((len(items), 16)).astype(np.float32),
        np.ones(len(items), np.int64),
        workspace.dataset.training_sequences(),
    )
    team = ReinforcedPolicy(
        PolicyConfig(), workspace.catalogue, embeddings=embeddings, encoder=workspace.encoder, seed=0
    )
    manifest = PolicyManifest(
        name="rpp",
        seed=0,
        train_users=(),
        catalogue_digest=workspace.catalogue.digest,
        dataset="planted",
        dataset_digest=workspace.dataset.digest,
        model="planted:1",
        n_steps=N_STEPS,
        stopped="finished",
        calls=0,
    )
    save_policy(folder / POLICY, team, manifest)
    embeddings.save(folder / EMBEDDINGS)
    return folder


@pytest.fixture(scope="module")
def site(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`promptailor serve`, as anybody starts it; yields its address."""
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    command = [script("promptailor"), "serve", "--model", "planted:1", "--policy", f"rpp={policy}", "--explore"]
    url = f"http://127.0.0.1:{port}"
    environment = {"PROMPTAILOR_HOME": str(folder / "home")}
    with running([*command, "--port", str(port)], f"{url}/health", folder / "serve.log", environment):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("PROMPTAILOR_CHROMIUM") or shutil.which("chromium")
    assert path, "PROMPTAILOR_REQUIRE_SERVICES=1, but there is no Chromium; `.ci/services` finds or installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A new visitor; what her page complains of fails the test."""
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    complaints: list[str] = []
    context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    yield context
    context.close()
    assert [text for text in complaints if "net::ERR_FAILED" not in text] == []
    assert [url for url in asked if not url.startswith("http://127.0.0.1:")] == []


@pytest.fixture
def page(context: BrowserContext, site: str) -> Page:
    page = context.new_page()
    page.goto(site)
    expect(page.get_by_role("radio")).to_have_count(7)
    return page


@pytest.fixture
def keep() -> Callable[[Page, str], None]:
    folder = Path(os.environ.get("PROMPTAILOR_SCREENSHOTS", "runs/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)

    def keep(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png")

    return keep


def first_user(site: str) -> dict[str, Any]:
    user: dict[str, Any] = httpx.get(f"{site}/api/users").json()["users"][0]
    return user


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".answer .progress")).to_have_count(0)


def ask_as_somebody(page: Page, site: str) -> dict[str, Any]:
    user = first_user(site)
    page.locator(f'input[value="{user["user_id"]}"]').check()
    ask(page, f"something like {user['recent'][0]}")
    expect(page.locator(".item").first).to_be_visible()
    return user


def test_a_visitor_gets_a_ranked_list_with_reasons_and_sees_its_prompt_evolve(
    page: Page, site: str, keep: Callable[[Page, str], None]
) -> None:
    keep(page, "start")
    user = ask_as_somebody(page, site)
    expect(page.locator("#who-name")).to_have_text(user["name"])
    items = page.locator(".item")
    expect(items).to_have_count(10)
    for n in range(10):
        expect(items.nth(n).locator(".reason")).not_to_be_empty()
    expect(items.first.get_by_role("meter")).to_have_attribute("aria-valuenow", re.compile(r"\d+"))
    keep(page, "answer")

    steps = page.locator(".step")
    expect(steps).to_have_count(N_STEPS)
    assert steps.first.get_by_role("meter").count() == 4, "every sentence's probability"
    assert page.locator(".step .changed ins").count() > 0, "drawn prompts differ from step to step"
    assert page.locator(".step .changed del").count() > 0
    expect(page.locator("#prompt-facts")).to_contain_text("planted:1")
    steps.nth(1).get_by_text("The prompt as the model read it").click()
    text = steps.nth(1).locator(".text")
    expect(text).to_contain_text("candidates")
    assert text.locator("ins, del").count() > 0
    keep(page, "prompt")

    ask(page, "something else")
    expect(page.locator(".ranking")).to_have_count(2)
    expect(page.locator(".log .mine")).to_have_count(2)


def test_a_vote_is_kept_and_can_be_taken_back(page: Page, site: str) -> None:
    ask_as_somebody(page, site)
    thumbs = page.locator(".item").first.get_by_role("group", name="Your vote").get_by_role("button")
    up, down = thumbs.nth(0), thumbs.nth(1)
    for button, kind in ((up, "up"), (down, "down"), (down, "withdrawn")):
        before = counted(site, kind)
        with page.expect_response("**/api/feedback") as answered:
            button.click()
        assert answered.value.status == 204
        assert counted(site, kind) == before + 1
    assert [b.get_attribute("aria-pressed") for b in (up, down)] == ["false", "false"]


def counted(site: str, vote: str) -> float:
    found = re.search(rf'promptailor_feedback_total{{vote="{vote}"}} (\S+)', httpx.get(f"{site}/metrics").text)
    return float(found[1]) if found else 0.0


def test_why_this_says_what_each_part_of_the_prompt_did(
    page: Page, site: str, keep: Callable[[Page, str], None]
) -> None:
    ask_as_somebody(page, site)
    item = page.locator(".item").first
    why = item.get_by_role("button", name="Why this?")
    expect(why).to_have_attribute("aria-expanded", "false")
    why.click()
    expect(item.get_by_role("table")).to_be_visible()
    assert item.get_by_role("row").count() >= 4
    expect(why).to_have_attribute("aria-expanded", "true")
    keep(page, "why")
    why.click()
    expect(item.get_by_role("table")).to_be_hidden()


def test_forgetting_deletes_what_the_server_has_and_what_the_browser_kept(page: Page, site: str) -> None:
    page.get_by_label("Describe yourself").fill("I like everything.")
    ask(page, "surprise me")
    expect(page.locator(".item").first).to_be_visible()
    visitor = page.evaluate("localStorage.getItem('visitor')")
    assert re.fullmatch(r"visitor-[0-9a-f]{32}", visitor)
    page.get_by_role("button", name="Forget me").click()
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator(".item").first).to_be_visible()
    page.get_by_role("button", name="Forget me").click()
    page.get_by_role("button", name="Delete everything").click()
    expect(page.get_by_role("status")).to_have_text("Forgotten: 1 answer and 1 conversation deleted.")
    expect(page.locator(".item")).to_have_count(0)
    assert page.evaluate("Object.keys(localStorage)") == []
    assert httpx.delete(f"{site}/api/users/{visitor}").json() == {"answers": 0, "conversations": 0}


def test_text_of_a_user_is_never_markup(page: Page, site: str) -> None:
    page.get_by_label("Describe yourself").fill(HOSTILE)
    ask(page, HOSTILE)
    page.reload()
    expect(page.get_by_label("Describe yourself")).to_have_value(HOSTILE)
    ask(page, "surprise me")
    assert_harmless(page)


def test_text_of_the_server_is_never_markup(context: BrowserContext, site: str) -> None:
    """Every string of every answer is hostile: titles, reasons, sentences, prompts, names, errors."""

    def poisoned(route: Route) -> None:
        response = route.fetch()
        body = response.text()
        if route.request.url.endswith("/api/chat"):
            body = re.sub(r"(?<=data: ).*", lambda data: json.dumps(poison(json.loads(data[0]))), body)
        elif response.status != 204:
            body = json.dumps(poison(json.loads(body)))
        route.fulfill(response=response, body=body)

    page = context.new_page()
    page.route("**/api/**", poisoned)
    page.goto(site)
    expect(page.get_by_role("radio")).to_have_count(7)
    page.get_by_role("radio").nth(1).check()
    ask(page, "surprise me")
    expect(page.locator(".item").first).to_be_visible()
    page.locator(".item").first.get_by_role("button", name="Why this?").click()
    expect(page.get_by_role("table").first).to_be_visible()
    page.get_by_text("The prompt as the model read it").first.click()
    assert HOSTILE in page.locator(".item .title").first.inner_text()
    assert_harmless(page)


def poison(value: Any, key: str = "") -> Any:
    """Put hostile text into every string that is not an id."""
    if isinstance(value, dict):
        return {name: poison(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [poison(part, key) for part in value]
    kept = key.endswith("_id") or key in ("conversation", "domain", "act")
    return value if kept or not isinstance(value, str) else f"{value} {HOSTILE}"


def assert_harmless(page: Page) -> None:
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x], main script, main svg[onload]").count() == 0


def test_a_failure_is_said_and_can_be_tried_again(page: Page, site: str) -> None:
    page.route("**/api/chat", lambda route: route.abort())
    page.get_by_label("Your message").fill("surprise me")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/api/chat")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".item").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_keyboard_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the message field")).to_be_focused()
    page.get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio").nth(1)).to_be_checked()
    page.get_by_label("Your message").focus()
    page.keyboard.type("surprise me")
    page.keyboard.press("Enter")
    expect(page.locator(".item").first).to_be_visible()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, a")].filter((element) =>
             !(element.labels?.length || element.getAttribute("aria-label") || element.textContent.trim())).length"""
    )
    assert nameless == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(
    browser: Browser, site: str, scheme: Any, keep: Callable[[Page, str], None]
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(site)
    expect(page.get_by_role("radio")).to_have_count(7)
    ask_as_somebody(page, site)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    keep(page, f"phone-{scheme}")
    page.get_by_role("button", name="Colour theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.get_by_role("button", name="Colour theme").click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    context.close()
