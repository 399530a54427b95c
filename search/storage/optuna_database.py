"""What the search uses of the private parts of Optuna's database storage; see optuna_private.py.

A file by itself, because it imports SQLAlchemy, which takes a quarter of a second and a study in a journal does not
need.
"""

from __future__ import annotations

from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy.orm import Session

TABLES = frozenset(models.BaseModel.metadata.tables)  # Optuna's tables; a database with other tables is foreign
Attribute = models.StudyUserAttributeModel  # the lease replaces a row only if it still has the value that was read
TOKEN = "tinysearch:token"  # system attribute that finds a trial whose creation was not confirmed


class IdempotentStorage(RDBStorage):
    """Optuna's storage, but creating a trial with a TOKEN that exists returns the existing trial.

    Optuna itself retries a creation without knowing whether the first one was carried out.
    """

    def __init__(self, *arguments: Any, **options: Any):
        try:
            super().__init__(*arguments, **options)
        except Exception:
            if hasattr(self, "engine"):
                self.engine.dispose()  # otherwise its connections stay open until Python collects it
            raise

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        token = template_trial.system_attrs.get(TOKEN) if template_trial is not None else None
        if token is not None:
            tokens = models.TrialSystemAttributeModel
            query = session.query(models.TrialModel).join(tokens, tokens.trial_id == models.TrialModel.trial_id)
            known = query.filter(tokens.key == TOKEN, tokens.value_json == f'"{token}"').one_or_none()
            if known is not None:
                return known
        return super()._get_prepared_new_trial(study_id, template_trial, session)
