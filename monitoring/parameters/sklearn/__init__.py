"""Counting scikit-learn estimators, and the boosters of XGBoost and LightGBM."""
