"""Who may do what on the stand-in Hub."""

from __future__ import annotations

from dataclasses import dataclass

from tests.hub.repositories import HubError, Repository

ORGANIZATIONS = {"you": ("your-org",), "somebody-else": ("their-org",)}  # of each user


@dataclass(frozen=True)
class Token:
    user: str
    name: str
    role: str = "write"
    expired: bool = False


TOKENS = {
    "hf_you_may_write": Token("you", "write"),
    "hf_you_may_read": Token("you", "read", role="read"),
    "hf_yours_is_expired": Token("you", "old", expired=True),
    "hf_somebody_else": Token("somebody-else", "write"),
}
WRITE, READ_ONLY, EXPIRED, SOMEBODY_ELSE = TOKENS


@dataclass(frozen=True)
class Visitor:
    """Whoever asks: `user` is `None` for an anonymous one."""

    user: str | None
    role: str | None = None
    token_name: str | None = None

    @classmethod
    def of(cls, token: str | None, on_a_repository: bool) -> Visitor:
        """
        Raises [`HubError`] 401. For an expired token the client's exception on the Hub is that of a repository that is
        not found, whose message then tells of the token.
        """
        if token is None:
            return cls(None)
        if token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        known = TOKENS[token]
        if known.expired:
            raise HubError(
                401, f'User Access Token "{known.name}" is expired', "RepoNotFound" if on_a_repository else None
            )
        return cls(known.user, known.role, known.name)

    def owns(self, namespace: str) -> bool:
        return self.user is not None and namespace in (self.user, *ORGANIZATIONS[self.user])

    def sees(self, repository: Repository) -> bool:
        return not repository.settings["private"] or self.owns(repository.id.split("/")[0])

    def refuse_unseen(self, repository: Repository | None) -> None:
        """What is private is not there: 404, and 401 for the anonymous."""
        if repository is None or not self.sees(repository):
            if self.user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")

    def refuse_gated(self, repository: Repository) -> None:
        """Files of a gated repository are for its owners and for those who have been let in."""
        settings = repository.settings
        if not settings["gated"] or self.owns(repository.id.split("/")[0]) or self.user in settings["let_in"]:
            return
        what = f"Access to {repository.kind} {repository.id} is restricted"
        if self.user is None:
            raise HubError(401, f"{what}. You must have access to it and be authenticated to access it.", "GatedRepo")
        raise HubError(403, f"{what} and you are not in the authorized list. Ask for access.", "GatedRepo")

    def refuse_signed_out(self) -> None:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")

    def refuse_reader(self, namespace: str, what: str) -> None:
        """Writing takes a token of the role `write` of an owner."""
        self.refuse_signed_out()
        if self.role != "write" or not self.owns(namespace):
            raise HubError(403, what)

    def whoami(self) -> dict:
        self.refuse_signed_out()
        organizations = [{"type": "org", "name": name, "roleInOrg": "admin"} for name in ORGANIZATIONS[self.user]]
        access = {"displayName": self.token_name, "role": self.role, "createdAt": "2026-01-01T00:00:00.000Z"}
        return {
            "type": "user",
            "id": self.user,
            "name": self.user,
            "fullname": self.user,
            "email": f"{self.user}@example.org",
            "orgs": organizations,
            "auth": {"type": "access_token", "accessToken": access},
        }
