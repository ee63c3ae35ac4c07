"""What a person sees, in real Chromium, in each situation; and that the console stays silent."""

import re
import time
from itertools import pairwise

import pytest
from page_world import Fleet, PageServer, Visitor, make_token
from playwright.sync_api import BrowserContext, Page, expect
from situations import EVIDENCE, SITUATIONS

WIDTHS = ((1440, 900), (820, 1180))


def say(page: Page) -> str:
    return page.locator("h1").inner_text()


def panel(page: Page, group: str) -> str:
    return " ".join(page.locator(f"#g-{group}").inner_text().split())


def test_steady_says_all_well_and_shows_every_machine(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["steady"](fleet)
    page = visitor.sign_in()
    assert say(page) == "All well: 11 machines up."
    assert page.locator(".card").count() == 11
    assert page.locator(".card.look-well").count() == 11
    assert "all 6 up" in panel(page, "web")
    assert "completed" in panel(page, "web")
    assert page.title() == "All well: 11 machines up. · upkeep"
    assert visitor.console == []


def test_rolling_names_who_is_down_and_why(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["rolling"](fleet)
    page = visitor.sign_in()
    assert say(page) == "1 of 11 down: web-2, being upgraded (batch 2)."
    assert page.locator(".headline").get_attribute("data-severity") == "work"
    text = panel(page, "web")
    assert "running, batch 2 of about 6" in text
    assert "1 done" in text
    assert "4 waiting" in text
    assert "batch 2 ends: 1 of its machines are in hand" in text
    assert page.locator(".strip .number.now").text_content() == "2"
    assert "being upgraded (batch 2)" in page.locator('[data-card="web-2"]').inner_text()
    assert "batch 2 of ro_web_2: web-2" in page.locator(".story").inner_text()
    assert visitor.console == []


def test_halted_names_the_version_and_shows_the_evidence(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["halted"](fleet)
    page = visitor.sign_in()
    assert say(page) == "Rollout halted in web: version 1.0.2 is to blame."
    assert EVIDENCE in page.locator(".sentence.halted").inner_text()
    assert "All 11 machines up." in page.locator(".headline").inner_text()
    text = panel(page, "web")
    assert "VERSION_BAD" in text
    assert "publish a version after 1.0.2" in text
    assert "1 back as before" in text
    assert "mark-down.svg" in (page.locator("#favicon").get_attribute("href") or "")
    assert visitor.console == []


def test_what_holds_a_rollouts_pace_is_said_and_which_alarms_are_not_quiet(
    fleet: Fleet, visitor: Visitor
) -> None:
    SITUATIONS["paced"](fleet)
    page = visitor.sign_in()
    assert "an alarm fires, or cannot be asked" in page.locator(".headline").inner_text()
    text = panel(page, "web")
    assert "firing Alarm errors: job=api is 7, since" in text
    assert "unknown Alarm latency: http://p:9090 does not answer: timed out" in text
    assert "sales" not in text
    assert "the rollout rests at a checkpoint CHECKPOINT" in panel(page, "shop")
    assert "the ramp is not so far yet RAMP" in panel(page, "db")
    assert visitor.console == []


def test_a_model_on_its_way_is_not_called_a_version(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["models"](fleet)
    page = visitor.sign_in()
    text = page.locator(".headline").inner_text()
    assert "web is on its way to model 3f2a09c1d4e5" in text
    assert "web-1, being given a fresh OS disk (batch 2)" in text
    assert "model 3f2a09c1d4e5 is to blame" in text
    assert "the model has changed; a person rolls it MODEL_BY_HAND" in panel(page, "shop")
    assert "the model is to blame MODEL_BAD" in panel(page, "db")
    page.goto(page.url.rpartition("/")[0] + "/machines/web-1")
    work = page.locator("main").inner_text()
    assert "bringing model 3f2a09c1d4e5, batch 2: running" in work
    assert "model a41b77c0e3d9 → 3f2a09c1d4e5" in work
    assert visitor.console == []


def test_what_waits_for_people_says_for_which_word(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["asks"](fleet)
    page = visitor.sign_in()
    text = page.locator(".headline").inner_text()
    assert "6 machines of shop wait: a lifecycle hook waits for an answer." in text
    assert "6 machines of db wait: an approval is missing." in text
    assert "upkeep rollout approve ro_db_2" in text
    assert "the canary is not promoted CANARY" in panel(page, "web")
    assert "upkeep rollout promote ro_web_2" in panel(page, "web")
    assert "office-3, being given a fresh OS disk" in text
    assert "REPAIRS_BUSY" in panel(page, "office")
    assert visitor.console == []


def test_budget_spent_says_who_waits_for_whom(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["budget_spent"](fleet)
    page = visitor.sign_in()
    assert re.fullmatch(
        rf"1 of 6 down: web-4, unhealthy since {fleet.written_ago(7)}"
        r" \(503 Service Unavailable\)\.",
        say(page),
    )
    text = page.locator(".headline").inner_text()
    assert "5 machines of web wait: the budget is spent." in text
    assert "budget web: 1 of 1 places taken, spent" in panel(page, "web")
    assert "BUDGET_SPENT" in panel(page, "web")
    assert visitor.console == []


def test_a_lost_domain_is_named_and_no_version_blamed(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["domain_lost"](fleet)
    page = visitor.sign_in()
    assert say(page) == "Zone 2 is lost: work waits in web."
    text = page.locator(".headline").inner_text()
    assert "No version is blamed." in text
    assert "4 of 12 down: 4 not reached (web)." in text
    zone = page.locator(".zone", has_text="zone 2")
    assert zone.locator(".card.look-unknown").count() == 4
    assert visitor.console == []


def test_an_unknown_machine_is_down_and_not_called_ill(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["machine_unknown"](fleet)
    page = visitor.sign_in()
    since = fleet.written_ago(9)
    assert re.match(rf"1 of 6 down: web-3, not reached since {since} \(no answer", say(page))
    assert page.locator('[data-card="web-3"]').get_attribute("data-look") == "unknown"
    assert "UNREACHABLE" in panel(page, "web")


def test_an_empty_fleet_says_how_to_begin(fleet: Fleet, visitor: Visitor) -> None:
    page = visitor.sign_in()
    assert "there is no group" in say(page)
    assert "upkeep group create" in page.locator(".headline").inner_text()
    assert visitor.console == []


def test_five_thousand_machines_are_one_map_that_a_keyboard_walks(
    fleet: Fleet, visitor: Visitor
) -> None:
    SITUATIONS["very_many"](fleet)
    page = visitor.sign_in()
    assert say(page) == "204 of 5,006 down: 200 being upgraded (edge), 4 unhealthy (edge)."
    maps = page.locator(".map")
    assert maps.count() == 3
    looks = [maps.nth(n).get_attribute("data-looks") or "" for n in range(3)]
    assert sum(map(len, looks)) == 5_000
    assert "".join(looks).count("x") == 4
    # Few elements, however many machines: this is what keeps it usable.
    assert page.locator("svg.map *").count() < 30
    maps.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    names = (maps.first.get_attribute("data-names") or "").split(" ")
    columns = int(maps.first.get_attribute("data-columns") or 0)
    readout = page.locator("#g-edge .readout")
    assert readout.inner_text() == f"{names[columns + 1]}: well"
    maps.first.hover(position={"x": 3, "y": 3})
    assert readout.inner_text().startswith(f"{names[0]}:")
    maps.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/machines/edge-\d+$"))
    assert visitor.console == []


def test_a_change_appears_without_a_reload(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["steady"](fleet)
    page = visitor.sign_in()
    page.evaluate("window.neverReloaded = true")
    page.locator('[data-card="web-3"]').focus()
    fleet.machine("web-5", health="unhealthy", health_since=fleet.ago(0), down=1)
    fleet.changed("web")
    page.wait_for_selector('[data-card="web-5"].changed')
    assert say(page).startswith("1 of 11 down: web-5, unhealthy since")
    assert page.title().startswith("1 of 11 down")
    assert page.evaluate("window.neverReloaded")
    # Who was reading with the keyboard is still where they were.
    assert page.evaluate("document.activeElement.dataset.card") == "web-3"
    assert visitor.console == []


def test_only_the_changed_group_is_fetched_and_at_most_twice_a_second(
    fleet: Fleet, visitor: Visitor
) -> None:
    SITUATIONS["steady"](fleet)
    page = visitor.sign_in()
    page.wait_for_load_state("load")
    page.wait_for_timeout(700)  # The refresh that follows the line's hello.
    asked: list[tuple[float, str]] = []
    page.on(
        "request",
        lambda r: asked.append((time.monotonic(), r.url)) if "/fragments/" in r.url else None,
    )
    for n in range(20):
        fleet.machine("web-1", health="unhealthy" if n % 2 == 0 else "healthy", down=1 - n % 2)
        fleet.changed("web")
        page.wait_for_timeout(60)
    expect(page.locator('[data-card="web-1"]')).to_have_attribute("data-look", "well")
    assert 2 <= len(asked) <= 5
    assert all(url.endswith("/fragments/overview?group=g_web") for _, url in asked)
    gaps = [after[0] - before[0] for before, after in pairwise(asked)]
    assert min(gaps) > 0.4


def test_a_new_group_appears_by_itself(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["steady"](fleet)
    page = visitor.sign_in()
    page.evaluate("window.neverReloaded = true")
    fleet.group("api", 3)
    fleet.changed("api")
    page.wait_for_selector("#g-api .card")
    assert say(page) == "All well: 14 machines up."
    assert page.evaluate("window.neverReloaded")


def test_a_lost_line_is_said_plainly_and_mends(
    fleet: Fleet, visitor: Visitor, server: PageServer
) -> None:
    SITUATIONS["steady"](fleet)
    page = visitor.sign_in()
    server.stop()
    page.wait_for_selector('#live[data-state="lost"]')
    assert re.fullmatch(
        r"not live since \d\d:\d\d:\d\d, retrying", page.locator("#live .say").inner_text()
    )
    fleet.machine("db-1", health="unknown", health_since=fleet.ago(0), down=1)
    server.start()
    page.wait_for_selector('#live[data-state="live"]')
    # What was missed while the line was down is fetched on the way back.
    page.wait_for_selector('[data-card="db-1"][data-look="unknown"]')


def test_group_and_machine_pages_are_live_too(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["rolling"](fleet)
    page = visitor.sign_in("/groups/web")
    assert page.locator("h2", has_text="web").first.is_visible()
    assert page.locator("tbody tr").filter(has_text="web-").count() >= 6
    page.get_by_role("link", name="web-2").first.click()
    page.wait_for_selector('#live[data-state="live"]')
    assert say(page) == "web-2: being upgraded (batch 2)"
    assert "upgrade 1.0.1 → 1.0.2" in page.locator("main").inner_text()
    fleet.machine("web-2", health="healthy")
    with fleet.database.write() as connection:
        connection.exec_driver_sql("UPDATE tasks SET state='done' WHERE machine_id='m_web_2'")
    fleet.changed("web")
    expect(page.locator("h1")).to_have_text("web-2: well")
    assert visitor.console == []


def test_a_machine_says_what_holds_it(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["budget_spent"](fleet)
    page = visitor.sign_in("/machines/web-1")
    text = page.locator("main").inner_text()
    assert "the budget is spent" in text
    assert "Lifted by: budget web allows 1 down" in text


def test_a_group_lists_the_machines_of_one_look(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["very_many"](fleet)
    page = visitor.sign_in("/groups/edge?look=unhealthy")
    listed = page.locator('[data-part="machines"] tbody tr')
    assert listed.count() == 4
    page.get_by_role("link", name=re.compile("well, waits")).click()
    page.wait_for_url(re.compile("look=waiting"))
    assert listed.count() == 100
    page.get_by_role("link", name="More machines").click()
    page.wait_for_url(re.compile("from=100"))
    assert listed.count() == 100


def test_untrusted_text_stays_text(fleet: Fleet, visitor: Visitor) -> None:
    attack = "<script>window.hurt=1</script><img src=x onerror=window.hurt=1>'\"&"
    fleet.group("web", 6)
    fleet.machine("web-0", health="unhealthy", health_detail=attack, down=1)
    fleet.group("many", 60)
    fleet.machine("many-0", name='"><svg/onload=window.hurt=1>')
    fleet.tell("web", attack)
    fleet.hold("web", 1, "BUDGET_SPENT", attack)
    page = visitor.sign_in()
    assert attack in say(page)
    assert attack in page.locator(".story").inner_text()
    assert attack in page.locator(".holds").inner_text()
    assert page.evaluate("window.hurt") is None
    assert page.locator("main script, main img, main [onload]").count() == 0
    assert visitor.console == []


@pytest.mark.parametrize("situation", ["rolling", "halted", "asks", "domain_lost", "very_many"])
def test_nothing_is_wider_than_the_window(fleet: Fleet, visitor: Visitor, situation: str) -> None:
    SITUATIONS[situation](fleet)
    page = visitor.sign_in()
    for path in ("/", "/groups/edge" if situation == "very_many" else "/groups/web"):
        page.goto(visitor.url + path)
        for width, height in WIDTHS:
            page.set_viewport_size({"width": width, "height": height})
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} wide at {width}"


def test_dark_and_light_differ_and_a_choice_is_remembered(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["rolling"](fleet)
    page = visitor.sign_in()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    light_picture = page.screenshot()
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert dark != light
    assert page.screenshot() != light_picture
    button = page.locator("#theme")
    button.click()
    assert button.inner_text() == "theme: light"
    assert page.evaluate(ground) == light
    page.reload()
    assert page.evaluate(ground) == light
    button.click()
    assert button.inner_text() == "theme: dark"
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) == dark


def test_the_tab_key_reaches_everything(fleet: Fleet, visitor: Visitor) -> None:
    SITUATIONS["rolling"](fleet)
    fleet.group("many", 60)
    page = visitor.sign_in()
    wanted = page.evaluate(
        """() => {
          const all = [...document.querySelectorAll('a[href], button, input, [tabindex="0"]')];
          all.forEach((each, n) => each.dataset.stop = n);
          return all.filter((each) => each.offsetParent !== null || each.tagName === 'svg').length;
        }"""
    )
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        at = page.evaluate("document.activeElement.dataset.stop")
        if at is None:
            break
        reached.add(at)
        seen = page.evaluate("getComputedStyle(document.activeElement).outlineStyle !== 'none'")
        assert seen, "what has the focus does not show it"
    assert len(reached) >= wanted


def test_colour_is_never_the_only_sign(fleet: Fleet, visitor: Visitor) -> None:
    """Each look has its word in the card and a shape that no other look has."""
    from upkeep.web.drawing import icon
    from upkeep.web.looks import LETTERS, WORDS, Look

    shapes = {re.sub(r"look-[a-z-]+", "", str(icon(look))) for look in Look}
    assert len(shapes) == len(Look)
    assert len(set(WORDS.values())) == len(Look)
    assert len(set(LETTERS.values())) == len(Look)
    SITUATIONS["rolling"](fleet)
    page = visitor.sign_in()
    for look, machine in (("working", "web-2"), ("waiting", "web-1"), ("well", "web-0")):
        card = page.locator(f'[data-card="{machine}"]')
        assert WORDS[Look(look)] in card.inner_text()
        assert card.locator("svg.icon").count() == 1


def test_the_script_knows_every_look(server: PageServer) -> None:
    from upkeep.web.looks import LETTERS, WORDS
    from upkeep.web.render import STATIC_FILES

    script = STATIC_FILES["page.js"].decode()
    for look, letter in LETTERS.items():
        assert f'{letter}: "{WORDS[look]}"' in script


def test_signing_in_out_and_with_a_wrong_token(
    fleet: Fleet, context: BrowserContext, server: PageServer, token: str
) -> None:
    SITUATIONS["steady"](fleet)
    visitor = Visitor(context, server.url, "upk_looker.wrong-secret-wrong-secret-wrong")
    page = visitor.page
    page.goto(server.url + "/groups/web")
    assert "/login?back=%2Fgroups%2Fweb" in page.url
    page.get_by_label("Token").fill("upk_looker.wrong-secret-wrong-secret-wrong")
    page.get_by_role("button", name="Sign in").click()
    assert "no such token" in page.get_by_role("alert").inner_text()
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(server.url + "/groups/web")
    [cookie] = context.cookies()
    assert cookie["httpOnly"]
    assert cookie["secure"]
    assert cookie["sameSite"] == "Strict"
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(re.compile("/login$"))
    assert context.cookies() == []


def test_a_narrowed_token_sees_its_scope_only(
    fleet: Fleet, world: object, context: BrowserContext, server: PageServer
) -> None:
    fleet.group("web", 3)
    fleet.group("secret", 4, scope="other")
    fleet.machine("secret-0", health="unhealthy", down=1)
    token = make_token(world, "upk_narrow", "narrow", scope="default")  # type: ignore[arg-type]
    visitor = Visitor(context, server.url, token)
    page = visitor.sign_in()
    assert say(page) == "All well: 3 machines up."
    assert "secret" not in page.content()
    assert page.goto(server.url + "/machines/secret-0").status == 404  # type: ignore[union-attr]
    assert page.goto(server.url + "/groups/secret").status == 404  # type: ignore[union-attr]
