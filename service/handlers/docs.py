from service.handlers.openapi import Described


class Docs(Described):
    def get(self) -> None:
        self.show("docs", "text/html; charset=utf-8")
