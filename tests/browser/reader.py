"""Somebody before the page: what they do, and what they see."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

PATIENCE_S = 8.0


class Reader:
    """Opens the page as soon as it is made, and waits until the server's models are offered."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser, self.url = browser, url
        self.expected_complaints: tuple[str, ...] = ()
        self.resize(1200, 800)
        browser.get_log("browser")  # what other pages complained of
        if browser.current_url != url:
            browser.get(url)

    def complaints(self) -> list[str]:
        """Errors of the page in the browser's log, but for those a test expects."""
        messages = [str(entry["message"]) for entry in self.browser.get_log("browser")]
        return [m for m in messages if not any(expected in m for expected in self.expected_complaints)]

    def leave(self) -> None:
        """Take along everything that was stored or emulated."""
        self.browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        self.browser.get("about:blank")

    def connected(self) -> Reader:
        self.wait(lambda: self.value("model") != "")
        return self

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, feature: str, value: str) -> None:
        """A preference of the reader's system, such as ``prefers-color-scheme``."""
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": feature, "value": value}]})

    def wait(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """What ``condition`` returns as soon as that is true."""
        deadline_s = time.monotonic() + patience_s
        while not (result := condition()):
            assert time.monotonic() < deadline_s, f"waited in vain; the page reads: {self.text('body')!r}"
            time.sleep(0.04)
        return result

    def ask(self, question: str) -> None:
        self.type(question, Keys.ENTER)

    def type(self, *keys: str) -> None:
        self.element("#question").send_keys(*keys)

    def press(self, *keys: str) -> None:
        """To whatever has the focus."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def press_with(self, modifier: str, key: str) -> None:
        ActionChains(self.browser).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def click(self, selector: str) -> None:
        self.element(selector).click()

    def choose(self, picker: str, value: str) -> None:
        Select(self.element(f"#{picker}")).select_by_value(value)

    def answered(self, number: int = 1) -> Reader:
        """Wait until there are ``number`` answers and all have ended."""
        states = ("done", "failed", "stopped")
        self.wait(lambda: (seen := self.states()) and len(seen) == number and all(state in states for state in seen))
        return self

    def states(self) -> list[str]:
        script = "return [...document.querySelectorAll('.answer')].map(n => n.dataset.state)"
        found: list[str] = self.browser.execute_script(script)
        return found

    def element(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def elements(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(n => n.textContent)"
        found: list[str] = self.browser.execute_script(script, selector)
        return found

    def text(self, selector: str) -> str:
        return "".join(self.texts(selector))

    def is_shown(self, selector: str) -> bool:
        return any(element.is_displayed() for element in self.elements(selector))

    def value(self, name: str) -> str:
        return str(self.run("document.getElementById(arguments[0]).value", name))

    def focused(self) -> str:
        """The ``id`` of what has the focus."""
        return str(self.run("document.activeElement.id"))

    def run(self, expression: str, *arguments: Any) -> Any:
        return self.browser.execute_script(f"return {expression}", *arguments)

    def module(self, name: str, expression: str, *arguments: Any) -> Any:
        """``expression`` over ``m``, a module of the page; ``arguments`` is ``a``."""
        script = """
            const [name, a, done] = arguments;
            import(new URL(`page/${name}.js`, location.origin + "/"))
                .then(async (m) => done({value: await (EXPRESSION)}))
                .catch((error) => done({error: String(error.stack)}));
        """.replace("EXPRESSION", expression)
        outcome = self.browser.execute_async_script(script, name, arguments)
        assert "error" not in outcome, outcome["error"]
        return outcome["value"]
