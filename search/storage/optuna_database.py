"""What the search takes from the private parts of Optuna's database storage; see optuna_private.py.

In a file of its own, since it takes SQLAlchemy, which a study in a journal does without: a quarter of a second.
"""

from __future__ import annotations

from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy.orm import Session

TABLES = frozenset(models.BaseModel.metadata.tables)  # the names of Optuna's tables: a database with others is foreign
Attribute = models.StudyUserAttributeModel  # the lease changes a row of it only if it still says what was read
TOKEN = "tinysearch:token"  # the trial's system attribute by which one is found that may have been created


class IdempotentStorage(RDBStorage):
    """Optuna's storage, in which creating a trial with a TOKEN that is there already returns that trial.

    Optuna itself tries a creation again, and cannot know whether the first one was carried out.
    """

    def __init__(self, *arguments: Any, **options: Any):
        try:
            super().__init__(*arguments, **options)
        except Exception:
            if hasattr(self, "engine"):
                self.engine.dispose()  # else its connections are closed whenever Python comes to it
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
