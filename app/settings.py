"""What the environment says; the only place that reads it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Paths and keys, from the environment or a `.env` file."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    home: Path = Field(Path.home() / ".cache" / "promptailor", validation_alias="PROMPTAILOR_HOME")
    """Where downloads and finished model folders are kept."""
    data: Path | None = Field(None, validation_alias="PROMPTAILOR_DATA")
    """Folder of data sets; the downloads' own where empty."""
    model: str = Field("embedded:ml-100k", validation_alias="PROMPTAILOR_MODEL")
    """Recommender of a served graph."""
    refiner: str | None = Field(None, validation_alias="PROMPTAILOR_REFINER")
    """Refiner of a served graph (RPP+)."""
    policies: str | None = Field(None, validation_alias="PROMPTAILOR_POLICIES")
    """Trained policies of a served graph, as NAME=FOLDER separated by commas."""
    dataset: str | None = Field(None, validation_alias="PROMPTAILOR_DATASET")
    """Catalogue that the chat recommends from; the data set that the recommender was made for where empty."""
    chat_model: str | None = Field(None, validation_alias="PROMPTAILOR_CHAT_MODEL")
    """Model that reads what visitors write; rules do where empty."""
    checkpointer: SecretStr | None = Field(None, validation_alias="PROMPTAILOR_CHECKPOINTER")
    """URL of the database that conversations are kept in: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."""
    prices: Path | None = Field(None, validation_alias="PROMPTAILOR_PRICES")
    """Own prices of models, as YAML; before those that come with the package."""
    pseudonym_key: SecretStr | None = Field(None, validation_alias="PROMPTAILOR_PSEUDONYM_KEY")
    """Keys the pseudonyms of users, where several machines must agree; else a file in `home` does."""
    database: SecretStr | None = Field(None, validation_alias="PROMPTAILOR_DATABASE")
    """URL of the database of answers and feedback; a SQLite file in `home` where empty."""
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(None, validation_alias="OPENAI_BASE_URL")

    @property
    def data_dir(self) -> Path:
        """The folder data sets are read from."""
        return self.data or self.home / "data"

    @property
    def models_dir(self) -> Path:
        """The folder finished embedded models are kept in."""
        return self.home / "models"
