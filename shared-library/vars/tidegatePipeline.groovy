import io.tidegate.Pipeline
import io.tidegate.Session

Map call(Map options = [:]) {
    return new Pipeline(Session.of(this, 'tidegatePipeline', options)).run()
}
